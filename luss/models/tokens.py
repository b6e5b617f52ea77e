"""Vision transformers of one resolution: patches as tokens beside a class token, registers, or neither.

timm's VisionTransformer (ViT, DeiT, DINOv2, CLIP, SigLIP, ...) and Eva (DINOv3, EVA, with rotary positions) at any size that is a multiple of the
patch: learned position tables are interpolated as timm does (bicubic, antialiased).
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from luss.errors import LussError
from luss.models.backbone import Backbone, Features

_NUM_TAPS = 4


class TokenBackbone(Backbone):
    """A timm vision transformer; its maps are the patch tokens after a quarter, a half, three quarters and all of its blocks.

    Attributes:
        num_prefix_tokens: P, tokens before the patches: class token and registers.
        taps: Places of the blocks whose outputs are the maps, 0-based.
    """

    def __init__(self, name: str, model: Any, **facts: Any) -> None:
        """`facts`: see `Backbone`."""
        super().__init__(name, model, **facts)
        self.num_prefix_tokens = int(model.num_prefix_tokens)
        self.taps = taps_of(len(model.blocks))

    def forward(self, images: Tensor) -> Features:
        """(B, 3, H, W) normalised -> maps (B, L, H / patch, W / patch), the last one after the final norm, and the class token."""
        outputs = [tokens for place, tokens in enumerate(self._blocks(*self._embed(images))) if place in self.taps]
        outputs[-1] = self.model.norm(outputs[-1])
        size = (images.shape[2] // self.patch, images.shape[3] // self.patch)
        maps = tuple(
            tokens[:, self.num_prefix_tokens :].transpose(1, 2).reshape(images.shape[0], -1, *size)
            for tokens in outputs
        )
        return Features(maps, None if self.model.cls_token is None else outputs[-1][:, 0])

    def tokens(
        self,
        images: Tensor,
        *,
        keep: Tensor | None = None,
        hidden: Tensor | None = None,
        mask_token: Tensor | None = None,
        normed: bool = True,
    ) -> Tensor:
        """All tokens after the last block.

        Args:
            images: (B, 3, H, W) normalised; N patches, row by row.
            keep: (B, K) int64 patches that are computed at all, in this order; None = all.
            hidden: (B, N) bool, True = replaced by `mask_token` before positions are added.
            mask_token: (L,), needed with `hidden`.
            normed: Whether the final norm is applied.

        Returns:
            (B, P + K or P + N, L): prefix tokens, class token first, then patches.
        """
        tokens, rotary = self._embed(images, keep=keep, hidden=hidden, mask_token=mask_token)
        for place in range(len(self.model.blocks)):
            tokens = self._block(place, tokens, rotary)
        return self.model.norm(tokens) if normed else tokens

    def block_outputs(self, images: Tensor, *, keep: Tensor | None = None) -> list[Tensor]:
        """Tokens (B, P + K or P + N, L) after every block, before the final norm; arguments as in `tokens`."""
        return list(self._blocks(*self._embed(images, keep=keep)))

    def attention_logits(self, images: Tensor, *, block: int = -1) -> Tensor:
        """What a block's softmax gets: scaled products of queries and keys, (B, heads, P + N, P + N).

        Args:
            images: (B, 3, H, W) normalised.
            block: Which block, counted from the end where negative.

        Raises:
            LussError: The network's attention is not torch's scaled dot product.
        """
        tokens, positions = self._embed(images)
        last = range(len(self.model.blocks))[block]
        capture = _AttentionLogits()
        for place in range(last):
            tokens = self._block(place, tokens, positions)
        with capture:
            self._block(last, tokens, positions)
        if capture.logits is None:
            raise LussError(
                f"{self.name}'s attention cannot be read: unset TIMM_FUSED_ATTN, or choose another backbone"
            )
        return capture.logits

    def _embed(
        self,
        images: Tensor,
        *,
        keep: Tensor | None = None,
        hidden: Tensor | None = None,
        mask_token: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens with positions (B, P + K, L), and rotary positions where the network has them."""
        patches: Tensor = self.model.patch_embed(images)
        if hidden is not None:
            assert mask_token is not None, "hidden patches need a mask token"
            mask = hidden.reshape(*patches.shape[:3], 1)
            patches = torch.where(mask, mask_token.to(patches.dtype), patches)
        tokens = self.model._pos_embed(patches)
        tokens, rotary = tokens if isinstance(tokens, tuple) else (tokens, None)
        if keep is not None:
            prefix = tokens[:, : self.num_prefix_tokens]
            kept = tokens[:, self.num_prefix_tokens :].gather(1, keep[:, :, None].expand(-1, -1, tokens.shape[2]))
            tokens = torch.cat([prefix, kept], dim=1)
            if rotary is not None:
                # (..., N, D) of all images becomes (..., B, 1, K, D): a set of positions an image, the same for every head.
                rotary = rotary[..., keep, :]
                rotary = rotary.transpose(1, 2) if rotary.ndim == 5 else rotary[:, None]
        return self.model.norm_pre(tokens), rotary

    def _blocks(self, tokens: Tensor, rotary: Tensor | None) -> Iterator[Tensor]:
        for place in range(len(self.model.blocks)):
            tokens = self._block(place, tokens, rotary)
            yield tokens

    def _block(self, place: int, tokens: Tensor, rotary: Tensor | None) -> Tensor:
        options = {}
        if rotary is not None:
            # Mixed rotary positions differ from block to block.
            options["rope"] = rotary[place] if getattr(self.model, "rope_mixed", False) else rotary
        result: Tensor = self.model.blocks[place](tokens, **options)
        return result


def taps_of(depth: int) -> tuple[int, ...]:
    """Places of the blocks at quarters of the depth, 0-based: 2, 5, 8, 11 of 12."""
    return tuple(sorted({-(-depth * quarter // _NUM_TAPS) - 1 for quarter in range(1, _NUM_TAPS + 1)}))


class _AttentionLogits(TorchFunctionMode):
    """Notes the logits of the scaled dot product that runs under it: the fused kernel itself does not give them."""

    logits: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            query, key = args[:2]
            scale = kwargs.get("scale") or query.shape[-1] ** -0.5
            self.logits = (query * scale) @ key.transpose(-2, -1)
            if kwargs.get("attn_mask") is not None:
                self.logits = self.logits + kwargs["attn_mask"]
        return func(*args, **kwargs)
