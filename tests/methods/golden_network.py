"""The small network that the golden numbers of the learners were made with, as a backbone, and batches of their views."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from views_of import views_of

import luss.compat  # noqa: F401 - before timm
from luss.data.views import Views
from luss.methods.base import Given
from luss.models.build import build_backbone

from timm.models import register_model  # isort: skip

_FOLDER = Path(__file__).parents[1] / "golden" / "learners"


class GoldenBody(nn.Module):
    """Two convolutions of stride 2 with batch norms and ReLUs: 8 channels at stride 4."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)
        self.feature_info = [{"num_chs": 6, "reduction": 2}, {"num_chs": 8, "reduction": 4}]

    def forward_intermediates(self, images: Tensor, *, indices: int, intermediates_only: bool) -> list[Tensor]:
        first = torch.relu(self.bn1(self.conv1(images)))
        return [first, torch.relu(self.bn2(self.conv2(first)))][-indices:]


@register_model
def golden_body(
    pretrained: bool = False,
    num_classes: int = 0,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Any = None,
    cache_dir: Any = None,
) -> GoldenBody:
    return GoldenBody()


def golden(name: str) -> dict[str, NDArray[Any]]:
    """The arrays of a learner."""
    with np.load(_FOLDER / f"{name}.npz") as file:
        return dict(file)


def tensor(array: NDArray[Any]) -> Tensor:
    """As float32 where it is a number with a point."""
    found = torch.from_numpy(np.ascontiguousarray(array))
    return found.float() if found.is_floating_point() else found


def below(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def given(images_a_pass: int) -> Given:
    """The golden network."""
    return Given(lambda: build_backbone("golden_body"), images_a_pass)


def set_weights(module: nn.Module, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Sets every weight and statistic of a module, by name."""
    state = {name: tensor(array) for name, array in arrays.items()}
    missing = [name for name in module.state_dict() if name not in state and "num_batches" not in name]
    assert missing == []
    module.load_state_dict(state, strict=False)


def check(actual: Tensor, expected: NDArray[Any], *, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=rtol, atol=atol)


def check_weights(module: nn.Module, arrays: Mapping[str, NDArray[Any]], *, atol: float = 2e-6) -> None:
    """Weights and statistics after some steps."""
    state = module.state_dict()
    assert arrays
    for name, array in arrays.items():
        np.testing.assert_allclose(state[name].numpy(), array, rtol=2e-5, atol=atol, err_msg=name)


def check_gradients(module: nn.Module, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Gradients of the weights of a module."""
    weights = dict(module.named_parameters())
    assert arrays
    for name, array in arrays.items():
        gradient = weights[name].grad
        assert gradient is not None, name
        # Noise where a norm behind a bias takes its gradient away.
        scale = max(float(np.abs(array).max()), 0.02)
        np.testing.assert_allclose(gradient.numpy(), array, rtol=1e-5, atol=1e-5 * scale, err_msg=name)


def two_views(first: NDArray[Any], second: NDArray[Any]) -> Views:
    """One group of two views (B, 3, S, S)."""
    return views_of(torch.stack([tensor(first), tensor(second)]))


def unlike_views(first: NDArray[Any], second: NDArray[Any]) -> Views:
    """Two groups of one view."""
    return views_of(tensor(first)[None], tensor(second)[None])
