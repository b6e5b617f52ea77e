"""PASS_s and SwAV on a network of a few thousand weights."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tiny_pass import at_step, tiny_pass_s, tiny_swav, tiny_views
from torch import Tensor, nn

from luss.data.views import Views
from luss.errors import LussError
from luss.losses.pixel_alignment import pixel_contrast
from luss.methods import method_class
from luss.methods.base import Given, Method
from luss.methods.pass_s import PassS, PassSSettings
from luss.methods.swav import SwAV
from luss.models.build import build_backbone
from luss.settings import TrainSettings, ViewSettings
from luss.settings.fields import problems


def pass_s(stages: list[int], weights: list[float] | None = None, **options: float | str) -> PassS:
    return tiny_pass_s(shallow_stages=stages, shallow_weights=weights or [1.0] * len(stages), **options)


def places(views: Views) -> tuple[Tensor, Tensor]:
    """Where the two global views lie."""
    return views.groups[0].rectangles, views.groups[0].flips


def gradient_sum(module: nn.Module) -> float:
    return sum(float(p.grad.abs().sum()) for p in module.parameters() if p.grad is not None)


def train(method: Method, num_steps: int, lr: float = 0.1) -> None:
    optimizer = torch.optim.SGD(method.parameters(), lr=lr, momentum=0.9)
    for step in range(num_steps):
        optimizer.zero_grad(set_to_none=True)
        method(tiny_views(), at_step(step)).loss.backward()
        method.after_backward(at_step(step))
        optimizer.step()
        method.after_step(at_step(step))


@pytest.mark.parametrize("stages", [[1], [2], [3], [3, 2], [2, 3], [1, 2, 3], []])
def test_any_set_of_shallow_stages_trains(stages: list[int]) -> None:
    method = pass_s(stages)
    output = method(tiny_views(), at_step())
    output.loss.backward()
    assert {name for name in output.scalars if name.startswith("d2s")} == {f"d2s_{stage}" for stage in stages}
    assert all(gradient_sum(method.shallow[str(stage)]) > 0 for stage in stages)
    total = sum(float(output.scalars[f"d2s_{stage}"]) for stage in stages) + float(output.scalars["swav"])
    assert float(output.loss.detach()) == pytest.approx(
        total / (len(stages) + 1) + float(output.scalars["p2p"]), rel=1e-5
    )


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "test_nfnet"])
def test_any_timm_cnn_trains(name: str) -> None:
    method = tiny_pass_s(local_views=1, backbone=name, shallow_stages=[1, 2, 3], shallow_weights=[1.0] * 3)
    output = method(tiny_views(local_views=1), at_step())
    output.loss.backward()
    assert math.isfinite(float(output.loss.detach()))
    trained = {name: parameter for name, parameter in method.named_parameters() if parameter.requires_grad}
    # A trained parameter that no loss reaches would stop distributed training.
    assert [name for name, parameter in trained.items() if parameter.grad is None] == []
    gradients = {name: parameter.grad for name, parameter in trained.items() if parameter.grad is not None}
    assert [name for name, gradient in gradients.items() if not bool(gradient.isfinite().all())] == []
    # The layer next to the image gets its gradient through all of the network.
    first = next(name for name in gradients if name.startswith("backbone."))
    assert float(gradients[first].abs().sum()) > 0


def test_the_order_of_stages_does_not_swap_their_weights() -> None:
    one, other = pass_s([3, 2], [1.0, 2.0]), pass_s([2, 3], [2.0, 1.0])
    other.load_state_dict(one.state_dict())
    swapped = pass_s([2, 3], [1.0, 2.0])
    swapped.load_state_dict(one.state_dict())
    losses = [float(method(tiny_views(), at_step()).loss.detach()) for method in (one, other, swapped)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert losses[0] != pytest.approx(losses[2], abs=1e-4)


def test_weights_need_not_be_whole_and_the_deep_one_counts() -> None:
    method = pass_s([3], [0.5], deep_weight=1.5, pixel_alignment_weight=0.25)
    output = method(tiny_views(), at_step())
    parts = {name: float(value) for name, value in output.scalars.items()}
    expected = (1.5 * parts["swav"] + 0.5 * parts["d2s_3"]) / 2 + 0.25 * parts["p2p"]
    assert float(output.loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_shallow_stages_give_prototypes_no_gradient() -> None:
    method = pass_s([2, 3])
    views = tiny_views()
    maps = method.backbone(views.groups[0].flat()).maps
    codes = [torch.full((4, 8), 1 / 8)] * 2
    (method.deep_to_shallow(2, maps[1], codes) + method.deep_to_shallow(3, maps[2], codes)).backward()  # type: ignore[no-untyped-call]
    assert gradient_sum(method.shallow["2"]) > 0
    assert method.clustering.prototypes.weight.grad is None
    assert gradient_sum(method.clustering.projector) == 0


def test_shallow_predictions_use_the_shared_prototypes() -> None:
    method = pass_s([3]).eval()
    features = method.backbone(tiny_views().groups[0].flat()).maps[2]
    codes = [torch.eye(8)[:4]] * 2
    before = float(method.deep_to_shallow(3, features, codes).detach())
    with torch.no_grad():
        method.clustering.prototypes.weight.copy_(method.clustering.prototypes.weight.flip(0))
    assert float(method.deep_to_shallow(3, features, codes).detach()) != pytest.approx(before, abs=1e-4)


def test_alignment_reaches_the_projector_only_through_predictions() -> None:
    method = pass_s([])
    features = method.backbone(tiny_views().groups[0].flat()).last
    for parameter in method.pixel_predictor.parameters():
        nn.init.zeros_(parameter)
    method.align(features, *places(tiny_views())).backward()  # type: ignore[no-untyped-call]
    # A predictor that ignores its input passes nothing on; a target that passed gradients would.
    assert gradient_sum(method.pixel_projector) == 0


def test_alignment_trains_projector_predictor_and_backbone_but_no_prototypes() -> None:
    method = pass_s([])
    features = method.backbone(tiny_views().groups[0].flat()).last
    method.align(features, *places(tiny_views())).backward()  # type: ignore[no-untyped-call]
    assert gradient_sum(method.pixel_projector) > 0
    assert gradient_sum(method.pixel_predictor) > 0
    assert gradient_sum(method.backbone) > 0
    assert gradient_sum(method.clustering) == 0


@pytest.mark.parametrize(("pairs", "share"), [("overlapping", 1), ("all", 3 / 4)])
def test_alignment_averages_over_pairs_that_overlap_or_over_all(pairs: str, share: float) -> None:
    # With points from edge to edge and zeros outside, as published, a pair apart contributes nothing.
    method = pass_s([], points="edges", padding="zeros", pairs=pairs).eval()
    with torch.no_grad():
        features = method.backbone(tiny_views().groups[0].flat()).last
        first_three = float(method.align(features[[0, 1, 2, 4, 5, 6]], *places(tiny_views(batch=3))))
        mixed = float(method.align(features, *places(tiny_views(apart=(3,)))))
        none = float(method.align(features, *places(tiny_views(apart=(0, 1, 2, 3)))))
    assert none == pytest.approx(0, abs=1e-6)
    assert mixed == pytest.approx(share * first_three, abs=1e-5)


def test_pairs_that_do_not_overlap_count_nowhere_by_default() -> None:
    method = pass_s([]).eval()
    with torch.no_grad():
        features = method.backbone(tiny_views().groups[0].flat()).last
        first_three = float(method.align(features[[0, 1, 2, 4, 5, 6]], *places(tiny_views(batch=3))))
        mixed = float(method.align(features, *places(tiny_views(apart=(3,)))))
    assert mixed == pytest.approx(first_three, abs=1e-5)


@torch.no_grad()
def test_a_grid_size_of_zero_aligns_as_many_points_a_side_as_the_feature_map_has() -> None:
    method = tiny_pass_s().eval()
    features = method.backbone(tiny_views().groups[0].flat()).last
    side = features.shape[-1]
    losses = {}
    for grid_size in (0, side, side + 1, 7):
        other = tiny_pass_s(grid_size=grid_size).eval()
        other.load_state_dict(method.state_dict())
        losses[grid_size] = float(other.align(features, *places(tiny_views())))
    assert losses[0] == losses[side]
    assert len(set(losses.values())) == 3


def test_local_views_are_predicted_too() -> None:
    with_local, without = tiny_pass_s(local_views=3), tiny_pass_s()
    without.load_state_dict(with_local.state_dict())
    assert [group.count for group in with_local.views] == [2, 3]
    assert [group.count for group in without.views] == [2]
    losses = [
        float(with_local(tiny_views(local_views=3), at_step()).loss.detach()),
        float(without(tiny_views(), at_step()).loss.detach()),
    ]
    assert losses[0] != pytest.approx(losses[1], abs=1e-4)


@pytest.mark.parametrize("build", [tiny_swav, tiny_pass_s])
def test_frozen_prototypes_keep_their_bits_for_the_first_steps_and_then_move(build: Callable[..., SwAV]) -> None:
    method = build(clustering={"freeze_prototypes_steps": 3, "num_prototypes": 64})
    method.clustering.normalise_prototypes()
    start = method.clustering.prototypes.weight.detach().clone()
    train(method, 3)
    assert torch.equal(method.clustering.prototypes.weight, start)
    train_more = torch.optim.SGD(method.parameters(), lr=0.1)
    method.zero_grad(set_to_none=True)
    method(tiny_views(), at_step(3)).loss.backward()
    method.after_backward(at_step(3))
    train_more.step()
    assert not torch.equal(method.clustering.prototypes.weight, start)


@pytest.mark.parametrize("build", [tiny_swav, tiny_pass_s])
@pytest.mark.parametrize(("accumulate", "length"), [(1, 8), (2, 12), (4, 14)])
def test_the_queue_holds_whole_forward_passes_of_a_step_that_has_several(
    build: Callable[..., SwAV], accumulate: int, length: int
) -> None:
    # Of 8 images a step 8, 4 or 2 pass the network at once.
    images_a_pass = TrainSettings(batch_size=8, accumulate=accumulate).images_a_pass
    method = build(images_a_pass=images_a_pass, clustering={"queue_length": 15})
    assert method.clustering.queue.shape[1] == length


@pytest.mark.parametrize("build", [tiny_swav, tiny_pass_s])
def test_prototypes_are_unit_vectors_whenever_they_score(build: Callable[[], SwAV]) -> None:
    method = build()
    with torch.no_grad():
        method.clustering.prototypes.weight.mul_(7)
    method(tiny_views(), at_step())
    norms = method.clustering.prototypes.weight.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(8))


def test_swav_is_pass_s_without_shallow_stages_and_alignment() -> None:
    plain = tiny_swav(local_views=2)
    bare = pass_s([], pixel_alignment_weight=0.0)
    bare.load_state_dict(plain.state_dict())
    views = tiny_views(local_views=2)
    assert float(plain(views, at_step()).loss.detach()) == pytest.approx(
        float(bare(views, at_step()).loss.detach()), abs=1e-6
    )


def test_every_parameter_gets_a_gradient_whatever_is_switched_off() -> None:
    method = pass_s([], pixel_alignment_weight=0.0)
    method(tiny_views(), at_step()).loss.backward()
    assert [name for name, parameter in method.named_parameters() if parameter.grad is None] == []


def test_heads_of_resnet18_have_as_many_parameters_as_the_published_ones() -> None:
    method = PassS(PassSSettings(), Given(lambda: build_backbone("resnet18"), images_a_pass=256))

    def count(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    head = method.shallow["3"]
    assert {
        "projection_head": count(method.clustering.projector),
        "prototypes": count(method.clustering.prototypes),
        "projection_head_pixel": count(method.pixel_projector),
        "predictor_head_pixel": count(method.pixel_predictor),
        "projection_head_pixel_shallow": count(head.pixel),  # type: ignore[arg-type]
        "projection_head_shallow": count(head.image),  # type: ignore[arg-type]
        "backbone": count(method.backbone),
    } == {
        "projection_head": 329344,
        "prototypes": 64000,
        "projection_head_pixel": 591872,
        "predictor_head_pixel": 33152,
        "projection_head_pixel_shallow": 526336,
        "projection_head_shallow": 198272,
        "backbone": 11176512,
    }


def test_an_unknown_method_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(LussError, match=r"'pass': did you mean pass_s.*pass_s, .*swav"):
        method_class("pass")


@pytest.mark.parametrize("stage", [0, 4])
def test_shallow_stages_that_the_backbone_does_not_have_are_errors(stage: int) -> None:
    with pytest.raises(LussError, match=rf"{stage} is not one of 1 to 3"):
        pass_s([stage])


def test_settings_that_cannot_be_are_problems_with_their_keys() -> None:
    settings = PassSSettings(shallow_stages=[2, 3], shallow_weights=[0.0], deep_weight=0.0)
    settings.global_views = ViewSettings(1, 40)
    said = list(problems(settings, "method."))
    assert [text.split(" ")[0] for text in said] == [
        "method.global_views.count",
        "method.shallow_weights",
        "method.deep_weight",
    ]
    assert "compares exactly 2" in said[0]
    assert "1 entries for 2 stages" in said[1]


def test_a_queue_shorter_than_a_forward_pass_does_not_fit_the_training() -> None:
    settings = PassSSettings()
    settings.clustering.queue_length = 100
    assert settings.fits(TrainSettings(batch_size=200, accumulate=2)) == []
    (problem,) = settings.fits(TrainSettings(batch_size=200))
    assert problem.startswith("clustering.queue_length is 100")


def naive_embeddings(method: SwAV, pooled: list[torch.Tensor]) -> torch.Tensor:
    """Linear, batch norm, ReLU, linear, batch norm without affine part, unit length: over all rows at once."""
    first, second = method.clustering.projector[0], method.clustering.projector[3]
    hidden = first(torch.cat(pooled))
    hidden = ((hidden - hidden.mean(dim=0)) / (hidden.var(dim=0, unbiased=False) + 1e-5).sqrt()).clamp(min=0)
    out = second(hidden)
    out = (out - out.mean(dim=0)) / (out.var(dim=0, unbiased=False) + 1e-5).sqrt()
    return out / out.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("learner", [tiny_swav, tiny_pass_s])
def test_crops_of_all_sizes_pass_the_projector_as_one_batch_unless_they_are_kept_apart(
    learner: Callable[..., SwAV], monkeypatch: pytest.MonkeyPatch
) -> None:
    method, views = learner(local_views=3), tiny_views(local_views=3)
    seen: list[torch.Tensor] = []
    embed = method.clustering.embed
    monkeypatch.setattr(method.clustering, "embed", lambda vectors: seen.append(embed(vectors)) or seen[-1])
    method(views, at_step())
    with torch.no_grad():
        pooled = [method.backbone(group.flat()).pooled() for group in views.groups]
        expected = naive_embeddings(method, pooled)
    assert [len(batch) for batch in seen] == [2 * 4 + 3 * 4]
    torch.testing.assert_close(seen[0].detach(), expected, atol=1e-5, rtol=1e-4)
    seen.clear()
    method.settings.projector_batch = "each_size"
    method(views, at_step())
    assert [len(batch) for batch in seen] == [2 * 4, 3 * 4]
    assert float(F.cosine_similarity(seen[0].detach(), expected[:8]).min()) < 0.99


def test_every_convolution_of_the_heads_starts_as_published_and_no_linear_layer_does() -> None:
    sizes = {
        "clustering": {"hidden_dim": 256, "embedding_dim": 128},
        "shallow_stages": [2, 3],
        "shallow_weights": [1.0, 1.0],
    }
    published, usual = (tiny_pass_s(convolution_start=start, **sizes) for start in ("kaiming", "torch"))
    heads = [name for name, _ in published.named_children() if name != "backbone"]
    assert {"pixel_projector", "pixel_predictor", "shallow", "clustering"} == set(heads)
    num_convolutions = 0
    for name, module in published.named_modules():
        if name.startswith("backbone"):
            continue
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight.shape[0] * module.weight.shape[2] * module.weight.shape[3]
            assert float(module.weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.1), name
            num_convolutions += 1
        if isinstance(module, nn.Linear):
            # Uniform between -1 and 1 over the root of the inputs: torch's own.
            assert float(module.weight.detach().abs().max()) <= module.in_features**-0.5, name
    assert num_convolutions == 3 + 2 + 2 * 3
    convolution = usual.pixel_projector[0]
    assert float(convolution.weight.detach().abs().max()) <= convolution.in_channels**-0.5


# The paper's ablations


@pytest.mark.parametrize("pairs", ["overlapping", "all"])
@pytest.mark.parametrize("alignment", ["contrast", "clustering"])
def test_other_forms_of_the_alignment_train_and_leave_pairs_without_common_pixels_out(
    alignment: str, pairs: str
) -> None:
    method = tiny_pass_s(shallow_stages=[], shallow_weights=[], alignment=alignment, pairs=pairs)
    features = method.backbone(tiny_views().groups[0].flat()).last
    loss = method.align(features, *places(tiny_views()))
    loss.backward()  # type: ignore[no-untyped-call]
    assert gradient_sum(method.pixel_projector) > 0
    assert gradient_sum(method.backbone) > 0
    assert method.clustering.prototypes.weight.grad is None
    assert not [name for name, weight in method.pixel_predictor.named_parameters() if weight.grad is None]
    nowhere = method.align(features.detach(), *places(tiny_views(apart=(0, 1, 2, 3))))
    assert (float(nowhere.detach()) == 0) == (pairs == "overlapping")


def test_contrast_of_points_that_are_alike_and_unlike_the_others_costs_nothing() -> None:
    points = torch.eye(8).view(2, 4, 8).transpose(1, 2).reshape(2, 8, 2, 2)
    assert float(pixel_contrast(points, points, points, points, temperature=0.01)) < 1e-6
    # Told apart from nothing: the logarithm of all candidates.
    same = torch.ones(2, 8, 2, 2)
    assert float(pixel_contrast(same, same, same, same)) == pytest.approx(math.log(8))


def test_an_alignment_without_projector_predicts_the_features_themselves() -> None:
    method = tiny_pass_s(shallow_stages=[], shallow_weights=[], alignment_projector=False)
    assert not list(method.pixel_projector.parameters())
    features = method.backbone(tiny_views().groups[0].flat()).last
    method.align(features, *places(tiny_views())).backward()  # type: ignore[no-untyped-call]
    assert gradient_sum(method.pixel_predictor) > 0
    assert PassSSettings(alignment="clustering", alignment_projector=False).problems()


def test_codes_of_the_same_view_supervise_it_where_asked_for() -> None:
    method = pass_s([3], supervising_view="same").eval()
    features = method.backbone(tiny_views().groups[0].flat()).maps[2]
    codes = [torch.eye(8)[:4], torch.eye(8)[4:]]
    own = float(method.deep_to_shallow(3, features, codes).detach())
    scores = F.linear(F.normalize(method.shallow["3"](features), dim=1), method.clustering.prototypes.weight)
    losses = -(torch.cat(codes) * F.log_softmax(scores / 0.1, dim=1)).sum(dim=1)
    assert own == pytest.approx(float(losses.mean().detach()), rel=1e-5)
    method.settings.supervising_view = "other"
    # Swapped codes of swapped views.
    assert own == pytest.approx(float(method.deep_to_shallow(3, features, codes[::-1]).detach()), rel=1e-5)


def test_a_stage_that_supervises_itself_reads_no_deep_codes() -> None:
    method = pass_s([3], supervising_stage="same").eval()
    features = method.backbone(tiny_views().groups[0].flat()).maps[2]
    losses = [
        float(method.deep_to_shallow(3, features, codes).detach())
        for codes in ([torch.eye(8)[:4]] * 2, [torch.eye(8)[4:]] * 2)
    ]
    assert losses[0] == losses[1]
