"""Optimisers: groups of weights, their rates and decay from step to step, and clipping."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

import luss.compat  # noqa: F401  (before timm)
from luss.settings import OptimizerSettings, TrainSettings
from luss.training.schedules import cosine, lr_at
from luss.training.task import Part, Progress, Task

# isort: split
from timm.models import group_parameters
from timm.optim._optim_factory import create_optimizer_v2

# A token or table of positions, by the last part of its name.
_POSITIONS = ("pos_embed", "cls_token", "dist_token", "reg_token", "mask_token")
# Norms behind the blocks of a vision transformer.
_BEHIND = ("norm.", "fc_norm.")


def build_optimizer(task: Task, settings: TrainSettings) -> torch.optim.Optimizer:
    """An optimiser from timm over groups of a task's weights.

    `lars` is SGD with layer-wise trust ratios of 0.001, which is what PASS and SwAV run as "LARC without clipping". Every group says how its
    rate and its weight decay follow from the training's: `lr_scale`, `constant_lr`, `decays` (see `set_schedules`).

    Args:
        task: What trains; weights of one rate and decay make a group, in the order of the task's parameters.
        settings: The stage's.
    """
    own = settings.optimizer
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for parameter, lr_scale, constant, decays in _treated(task, own):
        words = {"lr_scale": lr_scale, "constant_lr": constant, "decays": decays}
        if own.name == "lars":
            # timm's trust ratios otherwise end where weight decay is 0.
            words["always_adapt"] = decays or own.decay_norms_and_biases
        weight_decay = own.weight_decay if decays else 0.0
        group = groups.setdefault((lr_scale, constant, decays), {"params": [], "weight_decay": weight_decay, **words})
        group["params"].append(parameter)
    plain = own.name == "sgd" and not (own.nesterov and own.momentum)
    options: dict[str, Any] = {"betas": own.betas} if own.name == "adamw" else {"momentum": own.momentum}
    options |= {"opt": "momentum" if plain else own.name, "lr": settings.lr, "weight_decay": own.weight_decay}
    optimizer: torch.optim.Optimizer = create_optimizer_v2(list(groups.values()), **options)
    return optimizer


def _treated(task: Task, settings: OptimizerSettings) -> Iterator[tuple[nn.Parameter, float, bool, bool]]:
    """Every weight that trains: its share of the rate, whether that stays constant, and whether it is decayed."""
    owner: dict[nn.Parameter, Part] = {}
    for part in task.parts():
        for parameter in part.module.parameters():
            owner.setdefault(parameter, part)
    scales = _layer_scales(task, settings.layer_decay) if settings.layer_decay != 1 else {}
    for name, parameter in task.named_parameters():
        owned = owner.get(parameter)
        if owned is None or not parameter.requires_grad:
            continue
        excluded = (not settings.decay_norms_and_biases and (parameter.ndim <= 1 or name.endswith(".bias"))) or (
            not settings.decay_positions and name.rpartition(".")[2] in _POSITIONS
        )
        yield parameter, owned.lr_scale * scales.get(parameter, 1.0), owned.constant_lr, owned.decay and not excluded


def _layer_scales(task: Task, decay: float) -> dict[nn.Parameter, float]:
    """The share of the rate of each weight of a timm network inside the task: 1 for what follows it, less from layer to layer before."""
    model = next((module for module in task.modules() if hasattr(module, "group_matcher")), None)
    if model is None:
        return {}
    layers: dict[str, int] = group_parameters(model, model.group_matcher(coarse=False), reverse=True)  # type: ignore[operator]
    # A head of our own is the layer behind the last block. timm counts a final norm to the last block, the published recipes (BEiT, MAE) to
    # the head; it gives norms of a classifier, which nothing here reaches, a layer of their own behind the blocks.
    blocks = {
        name for name, weight in model.named_parameters() if weight.requires_grad and not name.startswith(_BEHIND)
    }
    head = 1 + max(layers[name] for name in blocks if name in layers)
    layers |= {name: head for name in layers if name.startswith(_BEHIND)}
    return {parameter: decay ** (head - layers[name]) for name, parameter in model.named_parameters() if name in layers}


def scaled_lr(settings: TrainSettings) -> float:
    """The peak learning rate for the real global batch: linear scaling (Goyal et al. 2017)."""
    return settings.lr * settings.batch_size / settings.lr_batch_size


def set_schedules(optimizer: torch.optim.Optimizer, settings: TrainSettings, progress: Progress) -> float:
    """Gives every group its rate and weight decay of a step.

    Returns:
        The training's rate: that of a group with `lr_scale` 1.
    """
    own, peak = settings.optimizer, scaled_lr(settings)
    final = settings.final_lr * settings.batch_size / settings.lr_batch_size
    warmup = round(settings.warmup_epochs * progress.steps_per_epoch)
    lr = lr_at(progress.step, num_steps=progress.num_steps, warmup_steps=warmup, peak=peak, final=final)
    weight_decay = own.weight_decay
    if own.final_weight_decay is not None:
        weight_decay = cosine(progress, own.weight_decay, own.final_weight_decay)
    for group in optimizer.param_groups:
        group["lr"] = (peak if group.get("constant_lr") else lr) * group.get("lr_scale", 1.0)
        if group.get("decays", True):
            group["weight_decay"] = weight_decay
    return lr


def clip(parameters: Iterable[nn.Parameter], settings: OptimizerSettings) -> None:
    """Shortens gradients to `clip_norm`: that of all weights together, or that of every tensor by itself (DINO)."""
    if settings.clip == "total":
        nn.utils.clip_grad_norm_(list(parameters), settings.clip_norm)
    elif settings.clip == "each":
        for parameter in parameters:
            if parameter.grad is not None:
                scale = settings.clip_norm / (parameter.grad.norm() + 1e-6)
                parameter.grad.mul_(scale.clamp(max=1.0))
