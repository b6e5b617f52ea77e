"""Random weights: where residual branches start."""

import pytest
import torch
from torch import nn

from luss.models.backbone import Backbone, start_residuals_at_one
from luss.models.build import build_backbone


def last_norms(backbone: Backbone) -> list[nn.BatchNorm2d]:
    """The norm that each residual block of a ResNet ends with."""
    found = [module for name, module in backbone.named_modules() if name.endswith(("layer1.0.bn2", "layer4.1.bn2"))]
    return [module for module in found if isinstance(module, nn.BatchNorm2d)]


def test_residual_branches_start_at_one_as_in_the_papers() -> None:
    torch.manual_seed(0)
    backbone, other = build_backbone("resnet18"), build_backbone("resnet18")
    assert [norm.weight.abs().sum().item() for norm in last_norms(backbone)] == [0.0, 0.0]  # timm's own start
    start_residuals_at_one(backbone)
    assert len(last_norms(backbone)) == 2
    assert all((norm.weight == 1).all() for norm in last_norms(backbone))
    norms = {name for name, module in backbone.named_modules() if isinstance(module, nn.BatchNorm2d)}
    kept = [name for name in backbone.state_dict() if not name.endswith("bn2.weight")]
    assert len(norms) == 20
    # Nothing else is touched, biases of 0 included.
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    start_residuals_at_one(other)
    assert all(torch.equal(before[name], other.state_dict()[name]) for name in kept)


@pytest.mark.parametrize("name", ["test_convnext", "test_efficientnet"])
def test_networks_that_start_nowhere_at_zero_stay_as_they_are(name: str) -> None:
    backbone = build_backbone(name)
    before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    start_residuals_at_one(backbone)
    assert all(torch.equal(before[key], tensor) for key, tensor in backbone.state_dict().items())
