"""Images a second and megabytes of one training step of every learner, beside lightly's heads and losses where lightly has the method.

    python benchmarks/learners.py [--backbone resnet18] [--size 96] [--batch 64] [--threads 2] [--rounds 7] [--only simclr byol]

A step is forward, loss, backward, the optimiser's step and the teacher's, on random pixels that are already crops: no images are read and no
colours changed. Both sides have the same network, widths, queues and optimiser. In every round each learner takes a step and its peer takes
one, so that what slows the machine slows both; medians are printed. "MB" is what a step keeps: weights, gradients, the optimiser's momentum,
teachers and queues, and what the backward pass needs.

lightly is no dependency of luss: pip install --target FOLDER --no-deps lightly lightly-utils, then PYTHONPATH=FOLDER.
"""

import argparse
import copy
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luss.data.views import ViewGroup, Views, draw_rectangle
from luss.methods import METHODS, method_class
from luss.methods.base import Given, Method
from luss.models.backbone import Backbone
from luss.models.build import build_backbone
from luss.settings import MethodSettings, ViewSettings
from luss.training.task import Progress

QUEUE, PROTOTYPES, DIM = 4096, 500, 128
MOMENTUM, TEMPERATURE = 0.99, 0.2
PROGRESS = Progress(500, 1000, 100, log=False)
# Width and height that crops are said to come from.
IMAGE = 400

Loss = Callable[[], Tensor]


@dataclasses.dataclass
class Side:
    """One of two that are compared: what trains, its loss, and what follows a step."""

    module: nn.Module
    loss: Loss
    after: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.module.train()
        trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.9)

    def step(self) -> float:
        """Seconds of one step."""
        began = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss().backward()
        self.optimizer.step()
        self.after()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - began

    def megabytes(self) -> float:
        """What a step keeps; takes one forward pass."""
        own = [*self.module.parameters(), *self.module.buffers()]
        known = {tensor.untyped_storage().data_ptr() for tensor in own}
        kept: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = self.loss()
        # Gradient and momentum beside a weight.
        state = sum((3 if tensor.requires_grad else 1) * tensor.numel() * tensor.element_size() for tensor in own)
        del loss
        return (state + sum(kept.values())) / 2**20


def settings_of(name: str, size: int) -> MethodSettings:
    """The learner's published settings, with two views of `size` and the widths that both sides have."""
    settings = method_class(name).Settings()
    for block in (settings, getattr(settings, "clustering", None)):
        if block is None:
            continue
        for entry in dataclasses.fields(block):
            value = getattr(block, entry.name)
            if isinstance(value, ViewSettings):
                value.size = size
                value.count = 0 if entry.name == "local_views" else value.count
            elif entry.name == "queue_length":
                block.queue_length = 0 if name in ("swav", "pass_s") else QUEUE
    return settings


def views_of(method: Method, batch: int, device: torch.device) -> Views:
    """Random pixels in crops at random places, as the training loop would hand them over."""
    generator, groups = np.random.default_rng(0), []
    for view in (view for view in method.views if view.count):
        shape = (view.count, batch)
        places = [draw_rectangle(generator, IMAGE, IMAGE, (0.4, 1.0)) for _ in range(view.count * batch)]
        rectangles = torch.tensor(places, dtype=torch.float32, device=device).view(*shape, 4)
        images = torch.randn(*shape, 3, view.size, view.size, device=device)
        flips = torch.zeros(shape, dtype=torch.bool, device=device)
        groups.append(ViewGroup(images, rectangles, flips, torch.zeros(*shape, 7)))
    return Views(tuple(groups), torch.arange(batch), torch.full((batch, 2), IMAGE), [])


def own_side(name: str, options: argparse.Namespace) -> Side:
    """luss."""
    given = Given(lambda: build_backbone(options.backbone), images_a_pass=options.batch)
    method = method_class(name)(settings_of(name, options.size), given).to(options.device)
    method = method.to(memory_format=torch.channels_last)
    inputs = views_of(method, options.batch, options.device)
    return Side(method, lambda: method(inputs, PROGRESS).loss, lambda: method.after_step(PROGRESS))


class Peer:
    """A network with lightly's heads and losses, and random pixels for it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.network: Backbone = build_backbone(options.backbone)
        self.width = self.network.num_channels
        self.views = [
            torch.randn(options.batch, 3, options.size, options.size, device=options.device) for _ in range(2)
        ]

    def maps(self, network: Any, images: Tensor) -> Tensor:
        """(B, L, h, w)."""
        last: Tensor = network(images).last
        return last

    def pooled(self, network: Any, images: Tensor) -> Tensor:
        """(B, L)."""
        return self.maps(network, images).mean(dim=(2, 3))

    def side(
        self, modules: nn.ModuleDict, loss: Loss, teachers: list[tuple[nn.Module, nn.Module]] | None = None
    ) -> Side:
        """What trains; teachers follow their students after every step."""
        modules.to(self.options.device).to(memory_format=torch.channels_last)
        pairs = teachers or []

        def after() -> None:
            from lightly.models.utils import update_momentum

            for student, teacher in pairs:
                update_momentum(student, teacher, m=MOMENTUM)

        return Side(modules, loss, after)

    def teacher_of(self, module: nn.Module) -> nn.Module:
        """A copy that does not learn."""
        return copy.deepcopy(module).requires_grad_(False)

    def simclr(self) -> Side:
        """Two views as one batch, NT-Xent."""
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead

        head, criterion = SimCLRProjectionHead(self.width, self.width, DIM), NTXentLoss(temperature=0.1)
        modules = nn.ModuleDict({"network": self.network, "head": head})

        def loss() -> Tensor:
            first, second = head(self.pooled(self.network, torch.cat(self.views))).chunk(2)
            found: Tensor = criterion(first, second)
            return found

        return self.side(modules, loss)

    def moco_v2(self) -> Side:
        """A key view through teachers, a memory bank of keys."""
        from lightly.loss import NTXentLoss
        from lightly.models.modules import MoCoProjectionHead

        head = MoCoProjectionHead(self.width, self.width, DIM)
        criterion = NTXentLoss(temperature=TEMPERATURE, memory_bank_size=(QUEUE, DIM))
        teachers = [(each, self.teacher_of(each)) for each in (self.network, head)]
        names = ("network", "head", "teacher", "teacher_head")
        parts = (self.network, head, teachers[0][1], teachers[1][1])
        modules = nn.ModuleDict({**dict(zip(names, parts, strict=True)), "criterion": criterion})

        def loss() -> Tensor:
            with torch.no_grad():
                keys = teachers[1][1](self.pooled(teachers[0][1], self.views[1]))
            found: Tensor = criterion(head(self.pooled(self.network, self.views[0])), keys)
            return found

        return self.side(modules, loss, teachers)

    def byol(self) -> Side:
        """Each view predicts the other's teacher."""
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead

        head, predictor = BYOLProjectionHead(self.width, 4096, 256), BYOLPredictionHead(256, 4096, 256)
        criterion = NegativeCosineSimilarity()
        teachers = [(each, self.teacher_of(each)) for each in (self.network, head)]
        names = ("network", "head", "predictor", "teacher", "teacher_head")
        parts = (self.network, head, predictor, teachers[0][1], teachers[1][1])

        def loss() -> Tensor:
            predicted = [predictor(head(self.pooled(self.network, images))) for images in self.views]
            with torch.no_grad():
                targets = [teachers[1][1](self.pooled(teachers[0][1], images)) for images in self.views]
            found: Tensor = 0.5 * (criterion(predicted[0], targets[1]) + criterion(predicted[1], targets[0]))
            return found

        return self.side(nn.ModuleDict(dict(zip(names, parts, strict=True))), loss, teachers)

    def simsiam(self) -> Side:
        """Each view predicts the other, whose gradient is stopped."""
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead

        head, predictor = SimSiamProjectionHead(self.width, self.width, 2048), SimSiamPredictionHead(2048, 512, 2048)
        criterion = NegativeCosineSimilarity()

        def loss() -> Tensor:
            embedded = [head(self.pooled(self.network, images)) for images in self.views]
            predicted = [predictor(each) for each in embedded]
            found: Tensor = 0.5 * sum(criterion(predicted[i], embedded[1 - i].detach()) for i in range(2))
            return found

        return self.side(nn.ModuleDict({"network": self.network, "head": head, "predictor": predictor}), loss)

    def swav(self) -> Side:
        """Two views, prototypes, codes."""
        from lightly.loss import SwaVLoss
        from lightly.models.modules import SwaVProjectionHead, SwaVPrototypes

        head, prototypes = SwaVProjectionHead(self.width, 512, DIM), SwaVPrototypes(DIM, PROTOTYPES)
        criterion = SwaVLoss()

        def loss() -> Tensor:
            prototypes.normalize()
            scores = [prototypes(F.normalize(head(self.pooled(self.network, images)), dim=1)) for images in self.views]
            found: Tensor = criterion(scores, [])
            return found

        return self.side(nn.ModuleDict({"network": self.network, "head": head, "prototypes": prototypes}), loss)

    def densecl(self) -> Side:
        """MoCo for the image, and for the positions that match best."""
        from lightly.loss import NTXentLoss
        from lightly.models.modules import DenseCLProjectionHead
        from lightly.models.utils import select_most_similar

        heads = [DenseCLProjectionHead(self.width, 2048, DIM) for _ in range(2)]
        criteria = [NTXentLoss(temperature=TEMPERATURE, memory_bank_size=(QUEUE, DIM)) for _ in range(2)]
        teachers = [(each, self.teacher_of(each)) for each in (self.network, *heads)]
        copies = [teacher for _, teacher in teachers]
        modules = nn.ModuleDict(
            {f"part{place}": part for place, part in enumerate((self.network, *heads, *copies, *criteria))}
        )

        def embedded(network: Any, image_head: nn.Module, pixel_head: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
            maps = self.maps(network, images)
            positions = maps.flatten(2).transpose(1, 2)
            return image_head(maps.mean(dim=(2, 3))), positions, pixel_head(positions)

        def loss() -> Tensor:
            query, query_maps, query_pixels = embedded(self.network, *heads, self.views[0])
            with torch.no_grad():
                key, key_maps, key_pixels = embedded(copies[0], copies[1], copies[2], self.views[1])
            matched = select_most_similar(query_maps, key_maps, key_pixels).flatten(end_dim=1)
            dense = criteria[1](query_pixels.flatten(end_dim=1), matched)
            found: Tensor = 0.5 * (criteria[0](query, key) + dense)
            return found

        return self.side(modules, loss, teachers)


def sides(options: argparse.Namespace) -> Iterator[tuple[str, Side, Side | None]]:
    """Every learner and its peer, None where lightly has none or is not there."""
    try:
        import lightly  # noqa: F401

        has_lightly = True
    except ImportError:
        has_lightly = False
        print("lightly is not installed: only luss is measured\n")
    for name in options.only or METHODS:
        peer = getattr(Peer(options), name)() if has_lightly and hasattr(Peer, name) else None
        yield name, own_side(name, options), peer


def main() -> None:
    """Measures and prints a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--only", nargs="+", metavar="LEARNER", choices=list(METHODS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    where = (
        f"{options.backbone}, {options.size} pixels, batch {options.batch}, {options.threads} threads, {options.device}"
    )
    print(f"{where}, torch {torch.__version__}, median of {options.rounds} rounds\n")
    made = list(sides(options))
    seconds: dict[tuple[str, str], list[float]] = {}
    # The first round sets up what the others have.
    for round_number in range(options.rounds + 1):
        for name, own, peer in made:
            for title, side in (("luss", own), ("lightly", peer)):
                if side is not None:
                    took = side.step()
                    if round_number:
                        seconds.setdefault((name, title), []).append(took)
    print("| learner | luss images/s | lightly images/s | ratio | luss MB | lightly MB |\n|---|---|---|---|---|---|")
    for name, own, peer in made:
        rate = options.batch / statistics.median(seconds[name, "luss"])
        if peer is None:
            print(f"| {name} | {rate:.1f} | | | {own.megabytes():.0f} | |")
            continue
        other = options.batch / statistics.median(seconds[name, "lightly"])
        print(
            f"| {name} | {rate:.1f} | {other:.1f} | {rate / other:.2f} | {own.megabytes():.0f} | {peer.megabytes():.0f} |"
        )


if __name__ == "__main__":
    main()
