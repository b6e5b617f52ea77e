"""The learners against numbers that the published code gave: losses, gradients, teachers, queues and weights over some steps."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from golden_network import (
    below,
    check,
    check_gradients,
    check_weights,
    given,
    golden,
    set_weights,
    tensor,
    two_views,
    unlike_views,
)
from torch import Tensor, nn

from luss.data.views import Views
from luss.losses.pixel_alignment import pixel_alignment
from luss.losses.pixel_propagation import near_agreement, near_positions
from luss.losses.swapped_prediction import swapped_prediction
from luss.methods.base import Method
from luss.methods.byol import BYOL, BYOLSettings
from luss.methods.densecl import DenseCL, DenseCLSettings
from luss.methods.moco_v2 import MoCoV2, MoCoV2Settings
from luss.methods.pass_p import PassP, PassPSettings
from luss.methods.pixpro import PixPro, PixProSettings
from luss.methods.simsiam import SimSiam, SimSiamSettings
from luss.settings import ClusteringSettings, OptimizerSettings, TrainSettings
from luss.training.optim import build_optimizer
from luss.training.task import Progress

Array = dict[str, object]


def optimizer_of(method: Method, *, weight_decay: float = 1e-4) -> torch.optim.Optimizer:
    """SGD with momentum 0.9 and rate 0.05, as the loop builds it."""
    settings = OptimizerSettings("sgd", momentum=0.9, nesterov=False, weight_decay=weight_decay)
    return build_optimizer(method, TrainSettings(lr=0.05, optimizer=settings))


def step(
    method: Method,
    views: Views,
    progress: Progress,
    optimizer: torch.optim.Optimizer,
    *,
    before: Callable[[], None] = lambda: None,
) -> Tensor:
    """One step as the loop takes it; `before` looks at gradients."""
    optimizer.zero_grad(set_to_none=True)
    output = method(views, progress)
    output.loss.backward()
    method.after_backward(progress)
    before()
    optimizer.step()
    method.after_step(progress)
    loss: Tensor = output.loss.detach()
    return loss


def renamed(arrays: Array, places: dict[str, str]) -> Array:
    """Names of the published heads -> those of a sequence."""
    found = {}
    for name, array in arrays.items():
        head, _, rest = name.partition(".")
        if head in places:
            found[f"{places[head]}.{rest}"] = array
    return found


BODY = ("conv1.", "bn1.", "conv2.", "bn2.")


def body(arrays: Array) -> Array:
    return {f"model.{name}": array for name, array in arrays.items() if name.startswith(BODY)}


def same_rows(actual: Tensor, expected: Tensor) -> None:
    """A queue, whatever the order of its rows."""
    nearest = torch.cdist(actual, expected).min(dim=1)
    assert float(nearest.values.max()) < 1e-5
    assert sorted(nearest.indices.tolist()) == list(range(len(expected)))


def test_moco_v2_trains_as_published() -> None:
    arrays = golden("moco_v2")
    method = MoCoV2(MoCoV2Settings(embedding_dim=4, queue_length=12, momentum=0.9), given(4)).train()
    start = below("init/encoder_q/", arrays)
    for network, head in (
        (method.backbone, method.projector),
        (method.teacher_backbone.module, method.teacher_projector.module),
    ):
        set_weights(network, body(start))
        set_weights(head, below("fc.", start))
    # Published queues are written from their first row on, ours from the front: the same rows fall out first.
    method.queue = tensor(arrays["init/queue"].T).flip(0)
    optimizer = optimizer_of(method)
    for index in range(4):
        views = two_views(arrays[f"step{index}/im_q"], arrays[f"step{index}/im_k"])

        def gradients(first: bool = index == 0) -> None:
            if first:
                found = below("step0/grad/", arrays)
                check_gradients(method.backbone, body(found))
                check_gradients(method.projector, below("fc.", found))

        check(step(method, views, Progress(index, 4), optimizer, before=gradients), arrays[f"step{index}/loss"])
        same_rows(method.queue, tensor(arrays[f"step{index}/queue"].T))
        if index in (0, 3):
            found = below(f"step{index}/encoder_q/", arrays)
            check_weights(method.backbone, body(found))
            check_weights(method.projector, below("fc.", found))


def test_the_teacher_of_moco_v2_is_the_published_one_in_the_next_step() -> None:
    arrays = golden("moco_v2")
    method = MoCoV2(MoCoV2Settings(embedding_dim=4, queue_length=12, momentum=0.9), given(4))
    before, after = below("step0/encoder_k/", arrays), below("step3/encoder_q/", arrays)
    set_weights(method.teacher_backbone.module, body(before))
    set_weights(method.backbone, body(after))
    set_weights(method.projector, below("fc.", after))
    method.after_step(Progress(0, 4))
    for name, weight in method.teacher_backbone.module.named_parameters():
        expected = 0.9 * tensor(before[name.removeprefix("model.")]) + 0.1 * tensor(after[name.removeprefix("model.")])
        torch.testing.assert_close(weight.detach(), expected)


def test_densecl_trains_as_published() -> None:
    arrays = golden("densecl")
    settings = DenseCLSettings(hidden_dim=8, embedding_dim=4, queue_length=8, momentum=0.9)
    method = DenseCL(settings, given(4)).train()
    start = below("init/encoder_q/", arrays)

    def heads(found: Array) -> Array:
        renamed_heads = {}
        for name, array in below("1.", found).items():
            renamed_heads[name.replace("mlp2.", "pixels.").replace("mlp.", "image.")] = array
        return renamed_heads

    for network, neck in ((method.backbone, method.neck), (method.teacher_backbone.module, method.teacher_neck.module)):
        set_weights(network, body(below("0.", start)))
        set_weights(neck, heads(start))
    method.queue, method.dense_queue = (tensor(arrays[f"init/{name}"].T).flip(0) for name in ("queue", "queue2"))
    optimizer = optimizer_of(method)
    for index in range(3):
        images = arrays[f"step{index}/img"]
        views = two_views(images[:, 0], images[:, 1])

        def gradients(first: bool = index == 0) -> None:
            if first:
                found = below("step0/grad/", arrays)
                check_gradients(method.backbone, body(below("0.", found)))
                check_gradients(method.neck, heads(found))

        check(step(method, views, Progress(index, 3), optimizer, before=gradients), arrays[f"step{index}/loss"])
        same_rows(method.queue, tensor(arrays[f"step{index}/queue"].T))
        same_rows(method.dense_queue, tensor(arrays[f"step{index}/queue2"].T))
    final = below("final/encoder_q/", arrays)
    check_weights(method.backbone, body(below("0.", final)))
    check_weights(method.neck, heads(final))


def test_positions_of_densecl_do_not_count_before_their_first_step() -> None:
    arrays = golden("densecl")
    settings = DenseCLSettings(hidden_dim=8, embedding_dim=4, queue_length=8, dense_start_step=2)
    method = DenseCL(settings, given(4)).train()
    views = two_views(arrays["step0/img"][:, 0], arrays["step0/img"][:, 1])
    early = method(views, Progress(1, 3))
    torch.testing.assert_close(early.loss.detach(), early.scalars["info_nce"])
    late = method(views, Progress(2, 3))
    torch.testing.assert_close(late.loss.detach(), (late.scalars["info_nce"] + late.scalars["dense"]) / 2)


class Vectors(nn.Module):
    """Stands where a backbone would: a linear layer, for published numbers about the heads alone."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, images: Tensor) -> "Vectors.Pooled":
        return Vectors.Pooled(self.layer(images.flatten(1)))

    class Pooled:
        def __init__(self, vectors: Tensor) -> None:
            self.vectors = vectors

        def pooled(self) -> Tensor:
            return self.vectors


def test_byol_takes_the_published_step() -> None:
    arrays = golden("byol")
    method = BYOL(BYOLSettings(hidden_dim=8, embedding_dim=4, momentum=0.9), given(5)).train()
    # The published head has a bias in its last layer here, as lightly has it.
    places = {"layers.0.": "0.", "layers.1.": "1.", "layers.3.": "3."}

    def head(found: Array) -> Array:
        result = {}
        for name, array in found.items():
            place = next(place for place in places if name.startswith(place))
            result[name.replace(place, places[place])] = array
        return result

    def with_bias(in_dim: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(in_dim, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Linear(8, 4)
        )

    init = below("step/init/", arrays)
    method.backbone = Vectors(nn.Linear(6, 6))  # type: ignore[assignment]
    method.projector, method.predictor = with_bias(6), with_bias(4)
    method.teacher_backbone.module = Vectors(nn.Linear(6, 6))
    method.teacher_projector.module = with_bias(6)
    for module, name in (
        (method.backbone.layer, "enc/"),
        (method.teacher_backbone.module.layer, "enc_t/"),
    ):
        set_weights(module, below(name, init))
    for module, name in (
        (method.projector, "proj/"),
        (method.predictor, "pred/"),
        (method.teacher_projector.module, "proj_t/"),
    ):
        arrays_of = head(below(name, init))
        module.load_state_dict({key: tensor(array) for key, array in arrays_of.items()}, strict=False)
    views = unlike_views(arrays["step/x1"], arrays["step/x2"])
    output = method(views, Progress(0, 10, log=False))
    output.loss.backward()
    check(output.loss, arrays["step/loss"])
    gradients = below("step/grad/", arrays)
    check_gradients(method.backbone.layer, below("enc.", gradients))
    check_gradients(method.projector, head(below("proj.", gradients)))
    check_gradients(method.predictor, head(below("pred.", gradients)))
    torch.optim.SGD([weight for weight in method.parameters() if weight.requires_grad], lr=0.1).step()
    # At the first step of a training the momentum is the one that was set.
    method.after_step(Progress(0, 10))
    check_weights(method.teacher_backbone.module.layer, below("step/after_ema_0.9/enc_t.", arrays))
    check_weights(method.teacher_projector.module, head(below("step/after_ema_0.9/proj_t.", arrays)))


def test_the_momentum_of_byol_rises_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    method = BYOL(BYOLSettings(hidden_dim=8, embedding_dim=4), given(5))
    momenta: list[float] = []
    monkeypatch.setattr(method.teacher_backbone, "follow", lambda student, momentum: momenta.append(momentum))
    for index in range(40):
        method.after_step(Progress(index, 40))
    check(torch.tensor(momenta, dtype=torch.float64), golden("byol")["dm/tau_base0.99_max40"][:40], rtol=1e-12)


def test_simsiam_trains_as_published_and_its_predictor_at_a_rate_of_its_own() -> None:
    arrays = golden("simsiam")
    method = SimSiam(SimSiamSettings(embedding_dim=6, predictor_dim=3), given(5)).train()

    def encoder(found: Array) -> Array:
        # The published last layer has a frozen bias, which the norm behind it takes away.
        return {name: array for name, array in below("encoder.fc.", found).items() if name != "6.bias"}

    start = below("init/", arrays)
    set_weights(method.backbone, body(below("encoder.", start)))
    set_weights(method.projector, encoder(start))
    set_weights(method.predictor, below("predictor.", start))
    optimizer = optimizer_of(method)
    constant = [group for group in optimizer.param_groups if group["constant_lr"]]
    assert [weight for group in constant for weight in group["params"]] == list(method.predictor.parameters())
    for group in optimizer.param_groups:
        group["lr"] = 0.1 if group["constant_lr"] else 0.05
    for index in range(2):
        views = two_views(arrays[f"step{index}/x1"], arrays[f"step{index}/x2"])

        def gradients(first: bool = index == 0) -> None:
            if first:
                found = below("step0/grad/", arrays)
                check_gradients(method.backbone, body(below("encoder.", found)))
                check_gradients(method.projector, encoder(found))
                check_gradients(method.predictor, below("predictor.", found))

        check(step(method, views, Progress(index, 2), optimizer, before=gradients), arrays[f"step{index}/loss"])
    final = below("final/", arrays)
    check_weights(method.backbone, body(below("encoder.", final)))
    # Of the statistics of the last norm the published mean holds the frozen bias too.
    check_weights(method.projector, {k: v for k, v in encoder(final).items() if k != "7.running_mean"})
    check_weights(method.predictor, below("predictor.", final))


def placed(views: Views, first: Tensor, second: Tensor) -> Views:
    """Views whose crops lie where published coordinates say: of images of 1,001 x 1,001 pixels, mirrored where x falls."""
    for group, ends in zip(views.groups, (first, second), strict=True):
        mirrored = ends[:, 0] > ends[:, 2]
        low, high = torch.minimum(ends[:, 0], ends[:, 2]), torch.maximum(ends[:, 0], ends[:, 2])
        rectangle = [low * 1000, ends[:, 1] * 1000, (high - low) * 1000 + 1, (ends[:, 3] - ends[:, 1]) * 1000 + 1]
        group.rectangles.data = torch.stack(rectangle, dim=1)[None].clone()
        group.flips.data = mirrored[None].clone()
    views.sizes.data = torch.full_like(views.sizes, 1001)
    return views


@pytest.mark.parametrize("name", ["pixpro", "pixpro_instance"])
def test_pixpro_trains_as_published(name: str) -> None:
    arrays = golden(name)
    settings = PixProSettings(
        hidden_dim=10, embedding_dim=6, momentum=0.9, image_weight=1.0 if name == "pixpro_instance" else 0.0
    )
    method = PixPro(settings, given(4)).train()
    places = {"linear1": "0", "bn1": "1", "linear2": "3"}

    def parts(found: Array, teacher: str = "") -> list[tuple[nn.Module, Array]]:
        own: list[tuple[nn.Module, Array]] = [
            (method.teacher_backbone.module if teacher else method.backbone, body(below(f"encoder{teacher}.", found))),
            (
                method.pixels.teacher.module if teacher else method.pixels.projector,
                renamed(below(f"projector{teacher}.", found), places),
            ),
        ]
        if not teacher:
            own.append((method.pixels.values, below("value_transform.", found)))
        if settings.image_weight:
            instance = renamed(below("projector_instance.", found), places)
            own.append((method.image_teacher.module if teacher else method.image_projector, instance))
            if not teacher:
                own.append((method.image_predictor, renamed(below("predictor.", found), places)))
        return own

    start = below("init/", arrays)
    for teacher in ("", "_k"):
        # The teacher begins as a copy.
        copied = {f"{k.partition('.')[0]}{teacher}.{k.partition('.')[2]}": v for k, v in start.items()}
        for module, weights in parts({**start, **copied}, teacher):
            set_weights(module, weights)
    optimizer = optimizer_of(method, weight_decay=0.0)
    for index in range(2):
        if f"step{index}/im1" not in arrays:
            break
        views = unlike_views(arrays[f"step{index}/im1"], arrays[f"step{index}/im2"])
        views = placed(views, *(tensor(arrays[f"step{index}/coord{view}"]) for view in (1, 2)))

        def gradients(first: bool = index == 0) -> None:
            if first:
                for module, found in parts(below("step0/grad/", arrays)):
                    # Biases in front of a batch norm have no gradient but noise.
                    check_gradients(module, {k: v for k, v in found.items() if k != "0.bias"})

        check(step(method, views, Progress(index, 12), optimizer, before=gradients), arrays[f"step{index}/loss"])
    if name == "pixpro":
        final = below("final/", arrays)
        for module, found in parts(final):
            check_weights(module, found, atol=1e-5)


def test_the_sum_of_pass_p_is_that_of_its_published_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole was never published: its parts were, and this sum is PASS_s's with PixPro in SwAV's place."""
    arrays = golden("pass_p")
    numbers = {name: tensor(array) for name, array in arrays.items()}
    codes = [numbers["codes0"], numbers["codes1"]]
    shallow = dict(zip((3, 2), numbers["scores32"].split(12), strict=True))
    method = PassP(tiny_pass_p(), given(6))
    method.settings = replace(method.settings, shallow_stages=[3, 2], shallow_weights=[1.0, 1.0])
    monkeypatch.setattr(
        method, "deep_to_shallow", lambda stage, features, own: swapped_prediction(shallow[stage].split(6), own)
    )
    maps, scalars = (torch.empty(0),) * 4, {}
    deep = swapped_prediction(numbers["scores4"].split(6), codes)
    alignment = pixel_alignment(*numbers["p2p_p"].split(6), *numbers["p2p_z"].split(6))
    near = near_positions(numbers["coord1"], numbers["coord2"], (7, 7), threshold=0.7)
    pixels = near_agreement(numbers["pix_q1"], numbers["pix_k2"], near)
    pixels = pixels + near_agreement(numbers["pix_q2"], numbers["pix_k1"], near.transpose(1, 2))
    total = method.supervised(deep, codes, maps, scalars)
    for name, part in {
        "c4": deep,
        "c3": scalars["d2s_3"],
        "c2": scalars["d2s_2"],
        "p2p": alignment,
        "pix": pixels,
    }.items():
        check(part, arrays[f"part/{name}"])
    check(pixels + total + alignment, arrays["total_code_style"])


def tiny_pass_p() -> PassPSettings:
    head = ClusteringSettings(num_prototypes=8, embedding_dim=6, hidden_dim=5, queue_length=0)
    settings = PassPSettings(hidden_dim=10, embedding_dim=6, shallow_stages=[1], clustering=head, grid_size=3)
    return replace(settings, shallow_stages=[1], shallow_weights=[1.0])


def test_pass_p_adds_its_losses_up_by_their_weights() -> None:
    torch.manual_seed(0)
    settings = replace(tiny_pass_p(), pixpro_weight=0.5, pixel_alignment_weight=0.25, deep_weight=2.0)
    method = PassP(settings, given(4)).train()
    views = unlike_views(*(torch.randn(4, 3, 28, 28).numpy() for _ in range(2)))
    output = method(views, Progress(0, 10))
    parts = {name: float(part) for name, part in output.scalars.items()}
    expected = 0.5 * parts["pixpro"] + (2 * parts["swav"] + parts["d2s_1"]) / 3 + 0.25 * parts["p2p"]
    assert float(output.loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert method.prototypes() is method.clustering
