"""Networks of stages, whose maps shrink: convolutional ones, and those that mix windows or pools of attention into stages."""

from typing import Any

from torch import Tensor, nn

from luss.models.backbone import Backbone, Features


class ConvBackbone(Backbone):
    """A timm network that returns the feature maps of its last stages, at most four."""

    def __init__(self, name: str, model: Any, **facts: Any) -> None:
        """`facts`: see `Backbone`."""
        super().__init__(name, model, **facts)
        # A layer norm between the last stage and the classifier belongs to the map: so in transformers of stages. The batch norms that some
        # convolutional networks end with are no part of their maps (timm's own rule, `features_only`).
        self.has_final_norm = isinstance(getattr(model, "norm", None), nn.LayerNorm)

    def forward(self, images: Tensor) -> Features:
        """(B, 3, H, W) normalised -> maps (B, channels[s], about H / strides[s], W / strides[s]), shallow to deep, without a token."""
        options: dict[str, Any] = {"norm": True} if self.has_final_norm else {}
        maps = self.model.forward_intermediates(images, indices=len(self.channels), intermediates_only=True, **options)
        return Features(tuple(maps))
