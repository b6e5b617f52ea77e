"""Training the pixel attention: what is frozen stays frozen, and the saliency teacher teaches."""

from typing import Any

import pytest
import torch
from torch import Tensor
from views_of import views_of

from luss.data.views import Views
from luss.methods.base import Given
from luss.methods.pass_s import PassS, PassSSettings
from luss.models.build import build_backbone
from luss.settings import ClusteringSettings, PixelAttentionSettings, SaliencySettings, ViewSettings
from luss.tasks.attention import AttentionTask, attention_clustering
from luss.training.task import Progress

CLUSTERING = ClusteringSettings(
    num_prototypes=16, embedding_dim=8, hidden_dim=8, queue_length=64, freeze_prototypes_steps=9
)
MEAN = STD = 0.5  # of test_resnet


def pretrained() -> PassS:
    torch.manual_seed(0)
    settings = PassSSettings(clustering=CLUSTERING, global_views=ViewSettings(2, 40), local_views=ViewSettings(0))
    given = Given(lambda: build_backbone("test_resnet", output_stride=16), images_a_pass=4)
    method = PassS(settings, given)
    for module in method.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(std=0.1)
    return method


def attention_settings(*, saliency: float = 0.0, **own: Any) -> PixelAttentionSettings:
    return PixelAttentionSettings(
        batch_size=4,
        target_stride=8,
        queue_length=8,
        head=ClusteringSettings(
            num_prototypes=16, embedding_dim=8, hidden_dim=8, freeze_prototypes_steps=0, draw_prototypes_steps=2
        ),
        saliency=SaliencySettings(weight=saliency),
        **own,
    )


def task(**options: Any) -> AttentionTask:
    """Over a pretrained head."""
    settings, method = attention_settings(**options), pretrained()
    head = attention_clustering(CLUSTERING, settings, method.backbone.num_channels, method.clustering.state_dict())
    return AttentionTask(method.backbone, settings, head)


def task_with_own_head(**options: Any) -> AttentionTask:
    """Over a learner that leaves no prototypes."""
    return AttentionTask(pretrained().backbone, attention_settings(**options), None)


def views(whole: Tensor | None = None) -> Views:
    crops = torch.randn(2, 4, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    return views_of(crops) if whole is None else views_of(crops, whole[None])


def train(model: AttentionTask, batch: Views, num_steps: int, lr: float = 0.1) -> list[dict[str, Tensor]]:
    model.train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    scalars = []
    for step in range(num_steps):
        progress = Progress(step, num_steps)
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


def test_both_deviations_together_are_the_published_form() -> None:
    model = task(batch_norm="drifting", train_prototypes=True)
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
    ("options", "prototypes"), [({}, False), ({"batch_norm": "drifting"}, False), ({"train_prototypes": True}, True)]
)
def test_only_the_attention_and_where_asked_for_the_prototypes_have_gradients(
    options: dict[str, Any], prototypes: bool
) -> None:
    names = {name for name, parameter in task(**options).named_parameters() if parameter.requires_grad}
    assert ("clustering.prototypes.weight" in names) == prototypes
    assert {name for name in names if not name.startswith("attention.")} <= {"clustering.prototypes.weight"}


def test_drifting_statistics_alone_train_no_prototypes() -> None:
    model = task(batch_norm="drifting")
    before = copied(model)
    train(model, views(), 2)
    names = changed(before, model.state_dict())
    assert "clustering.prototypes.weight" not in names
    assert any(name.startswith("backbone") and name.endswith("running_var") for name in names)


def test_without_pretrained_prototypes_a_head_of_its_own_trains_beside_the_attention() -> None:
    model = task_with_own_head()
    before = copied(model)
    train(model, views(), 4)
    names = changed(before, model.state_dict())
    assert parts(names) == {
        "attention",
        "clustering.projector",
        "clustering.prototypes",
        "clustering.queue",
        "clustering.queue_filled",
    }
    assert {"clustering.projector.0.weight", "clustering.projector.1.running_mean", "attention.theta"} <= names
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert {name.split(".")[0] for name in trained} == {"attention", "clustering"}


def test_the_prototypes_of_an_own_head_are_drawn_at_first_and_learned_later() -> None:
    model, batch = task_with_own_head(), views()
    weight = model.clustering.prototypes.weight
    weight.register_post_accumulate_grad_hook(lambda parameter: seen.append(parameter.detach().clone()))
    seen: list[Tensor] = []
    train(model, batch, 4)
    # Drawn in steps 0 and 1, four rows each; the optimiser has them from step 2 on.
    assert not torch.equal(seen[0][:4], seen[1][4:8])
    assert torch.equal(seen[0][:4], seen[1][:4])
    assert torch.equal(seen[1], seen[2])
    assert not torch.equal(seen[2], seen[3])


def test_an_own_head_has_the_queue_of_the_stage_and_its_own_sizes() -> None:
    clustering = task_with_own_head().clustering
    assert clustering.queue.shape == (2, 8, 8)
    assert clustering.prototypes.weight.shape == (16, 8)
    assert clustering.settings.draw_prototypes_steps == 2


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
        CLUSTERING, attention_settings(), method.backbone.num_channels, method.clustering.state_dict()
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


def test_both_convolutions_of_the_attention_start_as_published_where_asked() -> None:
    def spreads(start: str) -> list[float]:
        layers = [layer for layer in task(convolution_start=start).attention.mlp if isinstance(layer, torch.nn.Conv2d)]
        return [float(layer.weight.detach().std()) * (layer.out_channels / 2) ** 0.5 for layer in layers]

    assert spreads("kaiming") == [pytest.approx(1, rel=0.05)] * 2
    assert max(spreads("torch")) < 0.7


@pytest.mark.parametrize(("batch", "rows"), [("all_views", [8]), ("each_view", [4, 4])])
def test_the_attention_s_batch_norms_see_all_views_together_unless_they_are_kept_apart(
    batch: str, rows: list[int]
) -> None:
    model, seen = task(attention_batch=batch).train(), []
    model.attention.mlp[1].register_forward_hook(lambda layer, inputs, output: seen.append((inputs[0], output)))
    model(views(), Progress(0, 1))
    assert [len(given) for given, _ in seen] == rows
    for given, output in seen:
        mean, variance = given.mean(dim=(0, 2, 3)), given.var(dim=(0, 2, 3), unbiased=False)
        expected = (given - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
        torch.testing.assert_close(output.detach(), expected.clamp(min=0).detach(), atol=1e-5, rtol=1e-4)
