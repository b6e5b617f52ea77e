"""Distance matching: positions take the vote of their nearest entries in a bank of labelled mean features.

The bank has one vector for each image and each category in it, background included, as in the published code; the paper speaks of one
a category. Pure functions of features and ids: where features come from and how neighbours are found is the caller's business.
Source: Gao et al., "Large-scale Unsupervised Semantic Segmentation", distance matching protocol.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from luss.data.imagenet_s import IGNORE
from luss.errors import LussError
from luss.files import replacing


@dataclass(frozen=True)
class Bank:
    """Labelled vectors.

    Attributes:
        ids: (M,) uint16 category of each vector, 0 = background.
        vectors: (M, L) float32, of length 1.
    """

    ids: NDArray[np.uint16]
    vectors: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.ids)

    def save(self, path: Path) -> None:
        """Writes the bank as `.npz`, atomically."""
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, ids=self.ids, vectors=self.vectors)

    @classmethod
    def load(cls, path: Path) -> "Bank":
        """Reads what `save` wrote.

        Raises:
            LussError: The file is absent or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as content:
                return cls(content["ids"], content["vectors"])
        except FileNotFoundError as error:
            raise LussError(f"the bank {path} does not exist: run the stage distance_matching") from error
        except Exception as error:  # NumPy lets many kinds through for a damaged archive
            raise LussError(f"the bank {path} is damaged ({error}): delete it and run the stage again") from error

    @classmethod
    def join(cls, parts: Sequence["Bank"]) -> "Bank":
        """The entries of all parts (at least one), in order."""
        return cls(np.concatenate([part.ids for part in parts]), np.concatenate([part.vectors for part in parts]))


def bank_of_image(features: Tensor, ids: NDArray[np.uint16]) -> Bank:
    """The entries of one image: the mean feature over each category's positions, brought to length 1.

    Features are averaged as they are, so that a position with a long feature says more.

    Args:
        features: (L, h, w) float32.
        ids: (h, w) mask at the features' positions; 1000 is left out.
    """
    kept = np.flatnonzero(ids != IGNORE)
    positions = features.flatten(1).T[torch.from_numpy(kept).to(features.device)]
    own = ids.ravel()[kept].astype(np.int64)
    present = np.unique(own)
    member = (torch.from_numpy(present)[:, None] == torch.from_numpy(own)).to(positions)
    # Sums instead of means: only the direction matters.
    vectors = F.normalize(member @ positions, dim=1)
    return Bank(present.astype(np.uint16), vectors.cpu().numpy().astype(np.float32))


def vote_shares(similarities: Tensor, ids: Tensor, *, num_classes: int, temperature: float) -> Tensor:
    """The share of each category in the votes of neighbours, each of which weighs exp(similarity / temperature).

    Args:
        similarities: (N, k) cosine similarities of k neighbours.
        ids: (N, k) int64 category of each, 0..C.
        num_classes: C.
        temperature: > 0; smaller trusts the nearest more.

    Returns:
        (N, C + 1) shares; each row sums to 1.
    """
    weights = torch.softmax(similarities / temperature, dim=1)
    return weights.new_zeros(len(ids), num_classes + 1).scatter_add_(1, ids, weights)
