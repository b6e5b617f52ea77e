"""Training the pixel attention: what is frozen stays frozen, and the saliency teacher teaches."""

import pytest
import torch
from luss.training.attention import AttentionTask, attention_clustering
from torch import Tensor

from luss.methods.base import Progress, Views
from luss.methods.pass_s import PassS
from luss.models.build import build_backbone
from luss.settings import (
    ClusteringSettings,
    PassSSettings,
    PixelAttentionSettings,
    PretrainSettings,
    SaliencySettings,
    ViewSettings,
)

CLUSTERING = ClusteringSettings(
    num_prototypes=16, embedding_dim=8, hidden_dim=8, queue_length=64, freeze_prototypes_steps=9
)
MEAN = STD = 0.5  # of test_resnet


def pretrained() -> PassS:
    torch.manual_seed(0)
    settings = PretrainSettings(
        batch_size=4,
        clustering=CLUSTERING,
        global_views=ViewSettings(2, 40),
        local_views=ViewSettings(0),
        pass_s=PassSSettings(),
    )
    method = PassS(build_backbone("test_resnet", output_stride=16), settings)
    for module in method.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(std=0.1)
    return method


def task(
    *, shared: bool = False, published: bool = False, saliency: float = 0.0, train_prototypes: bool = False
) -> AttentionTask:
    settings = PixelAttentionSettings(
        batch_size=4,
        upsample=2,
        queue_length=8,
        shared=shared,
        published=published,
        train_prototypes=train_prototypes,
        saliency=SaliencySettings(weight=saliency),
    )
    method = pretrained()
    clustering = attention_clustering(method.state_dict(), method.backbone.num_channels, CLUSTERING, settings)
    return AttentionTask(method.backbone, clustering, settings)


def views(whole: Tensor | None = None) -> Views:
    generator = torch.Generator().manual_seed(0)
    groups = [[torch.randn(4, 3, 48, 48, generator=generator) for _ in range(2)]]
    if whole is not None:
        groups.append([whole])
    nowhere = [[torch.zeros(4, 4)] * len(group) for group in groups]
    return Views(
        groups, nowhere, [[torch.zeros(4, dtype=torch.bool)] * len(group) for group in groups], torch.arange(4)
    )


def train(model: AttentionTask, batch: Views, num_steps: int, lr: float = 0.1) -> list[dict[str, Tensor]]:
    model.train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    scalars = []
    for step in range(num_steps):
        progress = Progress(step, num_steps, epoch=0)
        optimizer.zero_grad(set_to_none=True)
        output = model(batch, progress)
        output.loss.backward()
        model.after_backward(progress)
        optimizer.step()
        model.after_step(progress)
        scalars.append(output.scalars)
    return scalars


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name]) and "num_batches_tracked" not in name}


def parts(names: set[str]) -> set[str]:
    return {".".join(name.split(".")[:2]) if name.startswith("clustering") else name.split(".")[0] for name in names}


def copied(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("saliency", [0.0, 1.0])
def test_frozen_means_frozen_to_the_bit_batch_norm_statistics_included(saliency: float) -> None:
    model = task(saliency=saliency)
    before = copied(model)
    train(model, views(torch.rand(4, 3, 48, 48) if saliency else None), 2)
    names = changed(before, model.state_dict())
    assert parts(names) == {"attention", "clustering.queue", "clustering.queue_filled"}
    assert {"attention.theta", "attention.mlp.0.weight", "attention.mlp.1.running_mean"} <= names


def test_the_published_form_trains_prototypes_and_lets_statistics_drift() -> None:
    model = task(published=True)
    before = copied(model)
    train(model, views(), 2)
    names = changed(before, model.state_dict())
    assert "clustering.prototypes.weight" in names
    assert "clustering.projector.1.running_mean" in names
    assert any(name.startswith("backbone") and name.endswith("running_var") for name in names)
    frozen = {name for name in names if name.startswith(("backbone", "clustering.projector")) and "running" not in name}
    assert not frozen


def test_prototypes_can_be_trained_with_the_rest_frozen() -> None:
    model = task(train_prototypes=True)
    before = copied(model)
    train(model, views(), 2)
    names = parts(changed(before, model.state_dict()))
    assert names == {"attention", "clustering.queue", "clustering.queue_filled", "clustering.prototypes"}


@pytest.mark.parametrize(
    ("options", "prototypes"), [({}, False), ({"published": True}, True), ({"train_prototypes": True}, True)]
)
def test_only_the_attention_and_where_asked_for_the_prototypes_have_gradients(
    options: dict[str, bool], prototypes: bool
) -> None:
    names = {name for name, parameter in task(**options).named_parameters() if parameter.requires_grad}
    assert ("clustering.prototypes.weight" in names) == prototypes
    assert {name for name in names if not name.startswith("attention.")} <= {"clustering.prototypes.weight"}


def test_the_projector_runs_on_the_batch_s_statistics_and_the_backbone_on_its_own() -> None:
    model = task().train()
    assert not model.backbone.training
    vectors = torch.randn(16, model.backbone.num_channels)
    expected = model.clustering.embed(vectors)
    model.clustering.projector[1].running_mean.add_(5)  # type: ignore[operator]
    torch.testing.assert_close(model.clustering.embed(vectors), expected)


def test_pretrained_projector_and_prototypes_are_taken_over_with_an_empty_queue_of_its_own() -> None:
    method = pretrained()
    method.clustering.queue.fill_(1)
    method.clustering.prototypes.weight.data.mul_(3)
    clustering = attention_clustering(
        method.state_dict(),
        method.backbone.num_channels,
        CLUSTERING,
        PixelAttentionSettings(batch_size=4, queue_length=8),
    )
    own, given = clustering.state_dict(), method.clustering.state_dict()
    assert clustering.queue.shape == (2, 8, 8)
    assert not clustering.queue.any()
    assert clustering.settings.freeze_prototypes_steps == 0
    assert all(torch.equal(own[name], given[name]) for name in own if name.startswith("projector"))
    unit = given["prototypes.weight"] / given["prototypes.weight"].norm(dim=1, keepdim=True)
    torch.testing.assert_close(own["prototypes.weight"], unit)


def test_the_clustering_loss_alone_trains_the_attention() -> None:
    model = task()
    before = copied(model)["attention.mlp.3.weight"]
    scalars = train(model, views(), 2)
    assert not torch.equal(copied(model)["attention.mlp.3.weight"], before)
    assert "saliency" not in scalars[0]
    assert 0 < float(scalars[0]["attention_mean"]) < 1


def squares() -> Tensor:
    """Normalised whole images with a bright square in the middle of a flat border."""
    image = torch.full((4, 3, 64, 64), 0.3)
    image[:, :, 16:48, 16:48] = 0.95
    return (image - MEAN) / STD


@pytest.mark.parametrize("shared", [False, True])
def test_the_saliency_teacher_makes_attention_tell_an_object_from_its_border(shared: bool) -> None:
    model = task(shared=shared, saliency=10.0)
    scalars = train(model, views(squares()), 15, lr=0.02)
    assert float(scalars[-1]["saliency"]) < 0.8 * float(scalars[0]["saliency"])
    with torch.no_grad():
        normalised = torch.nn.functional.normalize(model.features(squares()), dim=1)
        attention = model.attention(normalised).mean(dim=(0, 1))
    assert attention.shape == (8, 8)
    border = torch.cat([attention[0], attention[-1], attention[1:-1, 0], attention[1:-1, -1]])
    assert float(attention[3:5, 3:5].mean()) > float(border.mean()) + 0.2
