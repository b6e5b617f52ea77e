"""Networks of stages, whose maps shrink: convolutional ones, and those that mix windows or pools of attention into stages."""

from typing import Any

from torch import Tensor, nn

from luss.models.backbone import Backbone, Features


class ConvBackbone(Backbone):
    """A timm network that returns the feature maps of its last stages, at most four."""

    def __init__(self, name: str, model: Any, **facts: Any) -> None:
        """`facts`: see `Backbone`."""
        super().__init__(name, model, **facts)
        self._norm = has_final_norm(model)

    def forward(self, images: Tensor) -> Features:
        """Feature maps of the last stages.

        Args:
            images: (B, 3, H, W) normalised images.

        Returns:
            Maps (B, channels[s], about H / strides[s], W / strides[s]), shallow to deep, without a token.
        """
        return Features(tuple(stage_maps(self.model, images, len(self.channels), norm=self._norm)))


def has_final_norm(model: Any) -> bool:
    """Whether a layer norm stands between the last stage and the classifier, and belongs to the map: so in transformers of stages.

    The batch norms that some convolutional networks end with are no part of their maps (timm's own rule, `features_only`).
    """
    return isinstance(getattr(model, "norm", None), nn.LayerNorm)


def stage_maps(model: Any, images: Tensor, count: int, *, norm: bool) -> list[Tensor]:
    """The last `count` maps of a timm network, (B, L_s, H_s, W_s) each; with `norm` the last one after the final norm."""
    options = {"norm": True} if norm else {}
    return list(model.forward_intermediates(images, indices=count, intermediates_only=True, **options))
