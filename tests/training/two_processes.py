"""What one process computes and two must compute together. Run as a script, it is one of two processes."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy_training import Recorder, toy_trainer
from two_at_once import as_process
from views_of import views_of

from luss import processes
from luss.data.views import Views
from luss.losses.pixel_alignment import pixel_alignment
from luss.losses.sinkhorn import sinkhorn
from luss.methods.base import Given
from luss.methods.clustering import OnlineClustering
from luss.methods.pass_s import PassS, PassSSettings
from luss.models.build import build_backbone
from luss.settings import ClusteringSettings, ViewSettings
from luss.training.checkpoint import load_newest
from luss.training.sync_batch_norm import CpuSyncBatchNorm, synchronise_batch_norm
from luss.training.task import Progress

CPU = torch.device("cpu")
VALID = (True, True, True, True, False, False, False, True)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def own(batch: Tensor) -> Tensor:
    """This process's rows of a global batch."""
    return batch.chunk(processes.world_size())[processes.rank()]


def batch_norm(shape: tuple[int, ...], *, train: bool, affine: bool) -> dict[str, Tensor]:
    """Outputs, gradients and statistics of two batches that pass one layer."""
    kind = nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d
    layer = kind(shape[1], affine=affine)
    if affine:
        layer.weight.data.copy_(random(shape[1], seed=7))
        layer.bias.data.copy_(random(shape[1], seed=8))
    model: nn.Module = nn.Sequential(layer)
    if processes.world_size() > 1:
        model = synchronise_batch_norm(model, CPU)
        assert isinstance(model[0], CpuSyncBatchNorm)  # type: ignore[index]
    model.train(train)
    result: dict[str, Tensor] = {}
    for step in range(2):
        # Far from zero: a variance from sums of squares would lose its digits.
        inputs = own(random(*shape, seed=step) + 100).requires_grad_()
        outputs = model(inputs)
        (outputs * own(random(*shape, seed=step + 10))).sum().backward()
        assert inputs.grad is not None
        result |= {f"output{step}": outputs.detach(), f"gradient{step}": inputs.grad}
    result |= {
        f"sum_{name}": parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    return result | {f"same_{name}": buffer.clone() for name, buffer in model.named_buffers()}


def codes_and_queue() -> dict[str, Tensor]:
    """Codes of four steps while the queue fills, and the queue after each."""
    torch.manual_seed(0)
    settings = ClusteringSettings(num_prototypes=5, embedding_dim=6, hidden_dim=4, queue_length=16, queue_start_epoch=0)
    clustering = OnlineClustering(4, settings, batch_size=8)
    clustering.normalise_prototypes()
    result: dict[str, Tensor] = {}
    for step in range(4):
        views = [own(F.normalize(random(8, 6, seed=10 * step + view), dim=1)) for view in range(2)]
        codes = clustering.codes(views, [clustering.score(view) for view in views], Progress(step, 4))
        result |= {f"codes{step}_{view}": code for view, code in enumerate(codes)}
        result[f"same_queue{step}"] = clustering.queue.clone()
    return result


def alignment(valid: tuple[bool, ...]) -> dict[str, Tensor]:
    maps = [own(random(8, 4, 3, 3, seed=seed)).requires_grad_() for seed in range(4)]
    loss = pixel_alignment(*maps, valid=own(torch.tensor(valid)))
    loss.backward()  # type: ignore[no-untyped-call]
    assert maps[0].grad is not None
    return {"mean_loss": loss.detach(), "shared_gradient": maps[0].grad}


def contrast(*, weighted: bool) -> dict[str, Tensor]:
    """A loss in which every row meets all rows of the global batch, as in contrastive learning."""
    rows = own(random(8, 6)).requires_grad_()
    scores = rows @ processes.gather(torch.tanh(rows)).T
    # Each process's loss weighs differently: a gradient that stayed on its process would show.
    weights = own(torch.linspace(1, 9, 8)) if weighted else torch.ones(len(rows))
    loss = (weights * scores.logsumexp(dim=1)).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    assert rows.grad is not None
    return {"mean_loss": loss.detach(), "shared_gradient": rows.grad}


class NoiseViews:
    """Two global and one local view of noise; some pairs do not overlap."""

    def __init__(self, num_images: int) -> None:
        self.num_images = num_images

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, list[Tensor]]:
        generator = np.random.default_rng(key)
        return key[1], [torch.from_numpy(generator.normal(size=(3, side, side))).float() for side in (40, 40, 32)]

    def collate(self, samples: list[tuple[int, list[Tensor]]]) -> Views:
        indices = torch.tensor([index for index, _ in samples])
        images = [torch.stack([views[view] for _, views in samples]) for view in range(3)]
        first = torch.tensor([[0.0, 0.0, 40.0, 40.0]]).repeat(len(indices), 1)
        second = torch.tensor([[10.0, 20.0, 30.0, 40.0]]).repeat(len(indices), 1)
        second[:, 0] += 100 * (indices % 5 == 0)
        flips = indices % 2 == 0
        return views_of(
            torch.stack(images[:2]),
            images[2][None],
            rectangles=[torch.stack([first, second]), first[None]],
            flips=[torch.stack([flips, ~flips]), flips[None]],
        )


class Unprepared(PassS):
    """Takes noise as it is."""

    def prepare(self, batch: Views, device: torch.device) -> Views:
        return batch


def pretraining(
    folder: Path, *, accumulate: int, lr: float, projector_batch: Literal["all_sizes", "each_size"]
) -> dict[str, Any]:
    """The log and the weights of four steps of PASS_s with a queue that is soon full; micro-batches of 8 images."""
    torch.manual_seed(0)
    settings = PassSSettings(
        global_views=ViewSettings(2, 40),
        local_views=ViewSettings(1, 32),
        clustering=ClusteringSettings(
            num_prototypes=6,
            embedding_dim=8,
            hidden_dim=8,
            queue_length=16,
            queue_start_epoch=0,
            freeze_prototypes_steps=1,
        ),
        shallow_stages=[2, 3],
        shallow_weights=[1.0, 2.0],
        grid_size=3,
        projector_batch=projector_batch,
    )
    model, reporter = Unprepared(settings, Given(lambda: build_backbone("test_resnet"), images_a_pass=8)), Recorder()
    trainer = toy_trainer(
        folder,
        model,
        data=NoiseViews(16 * accumulate),
        reporter=reporter,
        batch_size=8 * accumulate,
        accumulate=accumulate,
        lr=lr,
        sync_batch_norm=True,
    )
    trainer.run()
    state = load_newest(folder, warn=lambda text: None)
    assert state is not None
    return {"log": reporter.lines, "weights": state["model"]}


def decisions() -> dict[str, Any]:
    """Small agreements between processes."""
    last = processes.rank() == processes.world_size() - 1
    return {
        "any": processes.any_process(last),
        "none": processes.any_process(False),
        "mean": float(processes.mean(torch.tensor(1.0 + processes.rank()))),
        "share": processes.share_of_batch(8, 2, key="pretrain"),
    }


def measure(folder: Path) -> dict[str, Any]:
    """Everything, on as many processes as there are."""
    return {
        "vectors": batch_norm((8, 5), train=True, affine=True),
        "maps": batch_norm((8, 3, 4, 2), train=True, affine=True),
        "plain": batch_norm((8, 5), train=True, affine=False),
        "eval": batch_norm((8, 5), train=False, affine=True),
        "sinkhorn": {"codes": sinkhorn(own(random(12, 5)).clamp(-1, 1))},
        "queue": codes_and_queue(),
        "alignment": alignment(VALID),
        "no_alignment": alignment((False,) * 8),
        "contrast": contrast(weighted=False),
        "weighted_contrast": contrast(weighted=True),
        "pretraining": pretraining(folder / "one", accumulate=1, lr=0.3, projector_batch="all_sizes"),
        # Of noise, crops of two sizes differ more than images do: in one batch norm that multiplies rounding errors with every micro-batch.
        "accumulated": pretraining(folder / "two", accumulate=2, lr=0.03, projector_batch="each_size"),
        "decisions": decisions(),
    }


if __name__ == "__main__":
    as_process(measure)
