"""Groups of weights, their rates and decay from step to step, trust ratios and clipping, against formulas and published numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_training import ToyTask

from luss.models.build import build_backbone, create_timm
from luss.settings import OptimizerSettings, TrainSettings
from luss.training.optim import build_optimizer, clip, scaled_lr, set_schedules
from luss.training.schedules import cosine
from luss.training.task import Part, Progress, StepOutput

# isort: split
from timm.optim import param_groups_layer_decay


class Parts(ToyTask):
    """Named modules or weights, trained as `parts` says; the tests give the gradients, so there is no loss."""

    def __init__(self, *own: Part, **modules: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.own = own

    def parts(self) -> Sequence[Part]:
        return self.own or super().parts()

    def forward(self, inputs: Tensor, progress: Progress) -> StepOutput:
        raise NotImplementedError


def settings(lr: float = 1.0, **optimizer: Any) -> TrainSettings:
    return TrainSettings(lr=lr, batch_size=256, optimizer=OptimizerSettings(**optimizer))


def treated(task: Parts, optimizer: torch.optim.Optimizer, key: str) -> dict[str, Any]:
    """What the group of every weight that trains says under a key."""
    names = {parameter: name for name, parameter in task.named_parameters()}
    return {names[parameter]: group[key] for group in optimizer.param_groups for parameter in group["params"]}


def stepped(task: Parts, training: TrainSettings, gradients: Sequence[dict[str, Tensor]]) -> None:
    """Steps of the optimiser with given gradients by name."""
    optimizer = build_optimizer(task, training)
    for gradient in gradients:
        for name, parameter in task.named_parameters():
            parameter.grad = gradient[name].clone()
        optimizer.step()


def test_the_learning_rate_is_scaled_by_the_real_batch() -> None:
    assert scaled_lr(TrainSettings(lr=0.6, batch_size=64, lr_batch_size=256)) == pytest.approx(0.15)
    assert scaled_lr(TrainSettings(lr=0.6, batch_size=1024, lr_batch_size=256)) == pytest.approx(2.4)


# Momentum and adaptation


def lars_by_formula(weight: Tensor, gradients: list[Tensor], *, lr: float, decay: float, momentum: float) -> Tensor:
    """SGD with momentum on gradients that are scaled layer-wise; a layer of zero norm is neither scaled nor decayed."""
    weight, velocity = weight.double().clone(), torch.zeros_like(weight, dtype=torch.float64)
    for gradient in gradients:
        gradient = gradient.double()
        if weight.norm() > 0 and gradient.norm() > 0:
            ratio = 0.001 * weight.norm() / (gradient.norm() + decay * weight.norm() + 1e-8)
            gradient = ratio * (gradient + decay * weight)
        velocity = momentum * velocity + gradient
        weight = weight - lr * velocity
    return weight.float()


def draws(*shape: int, count: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_lars_follows_the_formula_for_layers_of_any_norm(start: float) -> None:
    initial, *gradients = draws(5, 3, count=5)
    task = Parts(weight=nn.Parameter(start * initial))
    stepped(task, settings(0.6, weight_decay=0.01), [{"weight": gradient} for gradient in gradients])
    expected = lars_by_formula(start * initial, gradients, lr=0.6, decay=0.01, momentum=0.9)
    torch.testing.assert_close(task.weight.detach(), expected, rtol=1e-5, atol=1e-7)


def test_each_layer_has_its_own_trust_ratio() -> None:
    task = Parts(large=nn.Parameter(torch.full((4,), 10.0)), small=nn.Parameter(torch.full((4,), 0.1)))
    ones = torch.ones(4)
    stepped(task, settings(weight_decay=0.0, momentum=0.0), [{"large": ones, "small": ones}])
    moved = [float((start - weight.detach()).norm()) for start, weight in ((10.0, task.large), (0.1, task.small))]
    assert moved == pytest.approx([0.001 * 20, 0.001 * 0.2], rel=1e-3)


def test_weights_that_lars_leaves_out_are_neither_decayed_nor_scaled() -> None:
    """With the published exclusion their steps are those of plain SGD (PixPro, BYOL)."""
    task = Parts(layer=nn.Linear(3, 4), norm=nn.BatchNorm1d(4))
    start = {name: parameter.detach().clone() for name, parameter in task.named_parameters()}
    gradients = {
        name: torch.randn(value.shape, generator=torch.Generator().manual_seed(1)) for name, value in start.items()
    }
    stepped(task, settings(0.6, weight_decay=0.01, decay_norms_and_biases=False), [gradients])
    for name in ("layer.bias", "norm.weight", "norm.bias"):
        torch.testing.assert_close(task.get_parameter(name).detach(), start[name] - 0.6 * gradients[name])
    expected = lars_by_formula(start["layer.weight"], [gradients["layer.weight"]], lr=0.6, decay=0.01, momentum=0.9)
    torch.testing.assert_close(task.layer.weight.detach(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_has_plain_or_nesterov_momentum(nesterov: bool, momentum: float) -> None:
    initial, *gradients = draws(5, 3)
    task = Parts(weight=nn.Parameter(initial.clone()))
    training = settings(0.1, name="sgd", momentum=momentum, nesterov=nesterov, weight_decay=0.01)
    stepped(task, training, [{"weight": gradient} for gradient in gradients])
    weight, velocity = initial.clone(), torch.zeros(5, 3)
    for gradient in gradients:
        gradient = gradient + 0.01 * weight
        velocity = momentum * velocity + gradient
        weight = weight - 0.1 * (gradient + momentum * velocity if nesterov else velocity)
    torch.testing.assert_close(task.weight.detach(), weight)


def test_adamw_has_the_betas_that_are_asked_for() -> None:
    initial, *gradients = draws(5, 3)
    task = Parts(weight=nn.Parameter(initial.clone()))
    training = settings(0.1, name="adamw", betas=(0.8, 0.95), weight_decay=0.05)
    stepped(task, training, [{"weight": gradient} for gradient in gradients])
    weight, mean, square = initial.clone(), torch.zeros(5, 3), torch.zeros(5, 3)
    for step, gradient in enumerate(gradients, start=1):
        weight = weight * (1 - 0.1 * 0.05)
        mean, square = 0.8 * mean + 0.2 * gradient, 0.95 * square + 0.05 * gradient**2
        weight = weight - 0.1 * (mean / (1 - 0.8**step)) / ((square / (1 - 0.95**step)).sqrt() + 1e-8)
    torch.testing.assert_close(task.weight.detach(), weight, rtol=1e-5, atol=1e-6)


# Groups


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_weight_decay_reaches_biases_and_batch_norms_too(name: str) -> None:
    task = Parts(layer=nn.Linear(3, 3), norm=nn.BatchNorm1d(3))
    (group,) = build_optimizer(task, settings(name=name, weight_decay=0.25)).param_groups
    assert len(group["params"]) == 4
    assert group["weight_decay"] == 0.25


def test_norms_and_biases_are_not_decayed_where_asked_for() -> None:
    task = Parts(conv=nn.Conv2d(3, 3, 1), norm=nn.BatchNorm2d(3))
    optimizer = build_optimizer(task, settings(name="adamw", weight_decay=0.25, decay_norms_and_biases=False))
    assert treated(task, optimizer, "weight_decay") == {
        "conv.weight": 0.25,
        "conv.bias": 0.0,
        "norm.weight": 0.0,
        "norm.bias": 0.0,
    }


@pytest.mark.parametrize("decay", [True, False])
def test_tokens_and_positions_are_decayed_or_not(decay: bool) -> None:
    task = Parts(backbone=build_backbone("test_vit"), mask_token=nn.Parameter(torch.zeros(1, 1, 8)))
    found = treated(
        task, build_optimizer(task, settings(name="adamw", weight_decay=0.25, decay_positions=decay)), "decays"
    )
    positions = {"backbone.model.cls_token", "backbone.model.pos_embed", "mask_token"}
    assert {name for name, decays in found.items() if not decays} == (set() if decay else positions)


def test_frozen_weights_and_weights_of_no_part_do_not_train() -> None:
    modules = {name: nn.Linear(2, 2, bias=False) for name in ("learning", "frozen", "left_out")}
    modules["frozen"].requires_grad_(False)
    task = Parts(Part(modules["learning"]), Part(modules["frozen"]), **modules)
    assert set(treated(task, build_optimizer(task, settings()), "lr")) == {"learning.weight"}
    whole = Parts(**modules)
    assert set(treated(whole, build_optimizer(whole, settings()), "lr")) == {"learning.weight", "left_out.weight"}


def test_a_weight_belongs_to_the_first_part_that_has_it() -> None:
    inner, outer = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    both = nn.Sequential(inner, outer)
    task = Parts(Part(inner, lr_scale=10.0, decay=False), Part(both, lr_scale=2.0), both=both)
    optimizer = build_optimizer(task, settings(weight_decay=0.25))
    assert treated(task, optimizer, "lr_scale") == {"both.0.weight": 10.0, "both.1.weight": 2.0}
    assert treated(task, optimizer, "weight_decay") == {"both.0.weight": 0.0, "both.1.weight": 0.25}


# Layer-wise rates: share of the rate and decay, of the published fine-tuning of ViTs (BEiT's rule).
PUBLISHED_LAYERS = {
    ("vit_small_patch16_224", 0.5): {
        "cls_token": (0.0001220703125, 0.0),
        "pos_embed": (0.0001220703125, 0.0),
        "patch_embed.proj.weight": (0.0001220703125, 0.05),
        "patch_embed.proj.bias": (0.0001220703125, 0.0),
        "blocks.0.attn.qkv.weight": (0.000244140625, 0.05),
        "blocks.0.attn.qkv.bias": (0.000244140625, 0.0),
        "blocks.0.norm1.weight": (0.000244140625, 0.0),
        "blocks.5.mlp.fc1.weight": (0.0078125, 0.05),
        "blocks.11.mlp.fc2.weight": (0.5, 0.05),
        "norm.weight": (1.0, 0.0),
    },
    ("vit_base_patch16_224", 0.4): {
        "cls_token": (6.7108864000000044e-06, 0.0),
        "patch_embed.proj.weight": (6.7108864000000044e-06, 0.05),
        "blocks.0.attn.qkv.weight": (1.677721600000001e-05, 0.05),
        "blocks.5.mlp.fc1.weight": (0.0016384000000000006, 0.05),
        "blocks.11.mlp.fc2.weight": (0.4, 0.05),
        "norm.weight": (1.0, 0.0),
    },
}


@pytest.mark.parametrize(("name", "decay"), PUBLISHED_LAYERS)
def test_layer_decay_gives_a_vit_the_published_rates(name: str, decay: float) -> None:
    with torch.device("meta"):
        task = Parts(model=create_timm(name), head=nn.Conv2d(8, 5, 1))
    own = {"decay_norms_and_biases": False, "decay_positions": False, "layer_decay": decay, "weight_decay": 0.05}
    optimizer = build_optimizer(task, settings(name="adamw", **own))
    scales, decays = (treated(task, optimizer, key) for key in ("lr_scale", "weight_decay"))
    found = {name: (scales[f"model.{name}"], decays[f"model.{name}"]) for name in PUBLISHED_LAYERS[name, decay]}
    assert found == {
        name: (pytest.approx(scale), decay) for name, (scale, decay) in PUBLISHED_LAYERS[name, decay].items()
    }
    assert (scales["head.weight"], decays["head.weight"]) == (1.0, 0.05)
    assert (scales["head.bias"], decays["head.bias"]) == (1.0, 0.0)
    assert len(optimizer.param_groups) == 28


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_layer_decay_gives_a_convolutional_network_with_a_head_the_rates_of_timm(name: str) -> None:
    plain = create_timm(name)
    plain.reset_classifier(5)
    expected = {
        parameter: group["lr_scale"]
        for group in param_groups_layer_decay(plain, layer_decay=0.7)
        for parameter in group["params"]
    }
    backbone = build_backbone(name)
    task = Parts(backbone=backbone, fc=nn.Linear(backbone.num_channels, 5))
    found = treated(task, build_optimizer(task, settings(name="adamw", layer_decay=0.7)), "lr_scale")
    by_name = {own: expected[parameter] for own, parameter in plain.named_parameters() if not own.startswith("head.")}
    ours = {own.removeprefix("backbone.model."): scale for own, scale in found.items()}
    heads = dict.fromkeys(("fc.weight", "fc.bias"), 1.0)
    assert ours == pytest.approx(by_name | heads)
    assert max(scale for own, scale in ours.items() if own not in heads) == pytest.approx(0.7)


def test_parts_and_layers_multiply() -> None:
    backbone = build_backbone("test_resnet")
    task = Parts(Part(backbone, lr_scale=0.1), backbone=backbone)
    found = treated(task, build_optimizer(task, settings(layer_decay=0.5)), "lr_scale")
    assert found["backbone.model.layer4.0.conv1.weight"] == pytest.approx(0.1 * 0.5)
    assert found["backbone.model.layer3.0.conv1.weight"] == pytest.approx(0.1 * 0.25)


# From step to step


def test_every_group_follows_the_schedule_with_its_share_and_constant_ones_stay_at_the_peak() -> None:
    slow, constant, rest = (nn.Linear(2, 2, bias=False) for _ in range(3))
    task = Parts(
        Part(slow, lr_scale=0.1), Part(constant, constant_lr=True), Part(rest), slow=slow, constant=constant, rest=rest
    )
    training = TrainSettings(lr=0.5, final_lr=0.01, batch_size=512, warmup_epochs=1.0)
    optimizer = build_optimizer(task, training)
    for step in (0, 3, 12, 39):
        lr = set_schedules(optimizer, training, Progress(step, 40, 4))
        # Warmed up over 4 steps; scaled by a batch of twice the one that rates are given for.
        cosine_lr = cosine(Progress(step - 4, 36), 1.0, 0.02)
        assert lr == pytest.approx((step + 1) / 4 if step < 4 else cosine_lr)
        rates = treated(task, optimizer, "lr")
        assert rates == {"slow.weight": pytest.approx(0.1 * lr), "constant.weight": 1.0, "rest.weight": lr}


def test_the_weight_decay_of_decayed_groups_follows_a_cosine_where_asked_for() -> None:
    task = Parts(layer=nn.Linear(2, 2))
    own = {"name": "adamw", "weight_decay": 0.04, "decay_norms_and_biases": False}
    training = settings(final_weight_decay=0.4, **own)
    optimizer = build_optimizer(task, training)
    # DINO's numbers for 35 steps.
    for step, expected in {0: 0.04, 17: 0.21192433, 34: 0.39927537}.items():
        set_schedules(optimizer, training, Progress(step, 35, 7))
        assert treated(task, optimizer, "weight_decay") == {"layer.weight": pytest.approx(expected), "layer.bias": 0.0}
    constant = settings(**own)
    set_schedules(optimizer, constant, Progress(34, 35, 7))
    assert treated(task, optimizer, "weight_decay") == {"layer.weight": 0.04, "layer.bias": 0.0}


# Clipping: gradients before and after, each tensor to a norm of 0.3, by DINO's code.
CLIPPED = [
    ([-0.13256447, 0.14205228, -0.04190075, 0.03576866], [-0.13256447, 0.14205228, -0.04190075, 0.03576866]),
    (
        [-0.30162447690963745, 0.21736177802085876, -0.22704875469207764, -2.7910828590393066],
        [-0.032032325863838196, 0.023083681240677834, -0.024112431332468987, -0.2964112162590027],
    ),
]


def test_clipping_each_tensor_gives_the_published_gradients() -> None:
    weights = [nn.Parameter(torch.zeros(len(before))) for before, _ in CLIPPED]
    for weight, (before, _) in zip(weights, CLIPPED, strict=True):
        weight.grad = torch.tensor(before)
    clip([*weights, nn.Parameter(torch.zeros(1))], OptimizerSettings(clip="each", clip_norm=0.3))
    for weight, (_, after) in zip(weights, CLIPPED, strict=True):
        assert weight.grad is not None
        np.testing.assert_allclose(weight.grad, after, rtol=1e-6)


@pytest.mark.parametrize(("kind", "norm"), [("total", 0.3), ("none", 5.0)])
def test_clipping_the_total_keeps_the_directions_and_none_keeps_everything(kind: Any, norm: float) -> None:
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    for weight, gradient in zip(weights, (3.0, 4.0), strict=True):
        weight.grad = torch.tensor([gradient])
    clip(weights, OptimizerSettings(clip=kind, clip_norm=0.3))
    found = [float(weight.grad) for weight in weights if weight.grad is not None]
    assert found == pytest.approx([0.6 * norm, 0.8 * norm], rel=1e-5)
