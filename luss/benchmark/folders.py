"""Finding what belongs together on disk, and saying everything that is wrong with it at once.

Predictions and masks are `<category>/<name>.png` below two folders, id = R + 256 G; attention is
`<category>/<name>.npy`.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import PngImagePlugin

from luss.errors import LussError

_SHOWN = 50


class EvaluationInputError(LussError):
    """Files that cannot be evaluated.

    Attributes:
        problems: All problems, "file: what is wrong" each; the message lists the first 50.
    """

    def __init__(self, problems: list[str]) -> None:
        """Makes the message; `problems` is not empty."""
        self.problems = problems
        listed = "\n".join(f"  {problem}" for problem in problems[:_SHOWN])
        rest = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        noun = "problem" if len(problems) == 1 else "problems"
        super().__init__(f"nothing was evaluated: {len(problems)} {noun} in the files\n{listed}{rest}")

    def __reduce__(self) -> tuple[type["EvaluationInputError"], tuple[list[str]]]:
        return EvaluationInputError, (self.problems,)


class AttentionSource(Protocol):
    """Where the attention of an image comes from. Must pickle, for worker processes."""

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The (H, W) of an image's attention, without reading all of it; None where it is made at any size.

        Args:
            name: "category/name", without an ending.

        Raises:
            LussError: There is none.
        """

    def read(self, name: str, size: tuple[int, int]) -> NDArray[np.floating]:
        """The attention of an image.

        Args:
            name: "category/name", without an ending.
            size: (H, W) of the image's mask, which a source of any size returns.

        Raises:
            LussError: There is none, or it is damaged.
        """


@dataclass(frozen=True)
class AttentionFolder(AttentionSource):
    """Attention maps as `<category>/<name>.npy`, floating point, (H, W), read as they are stored, whatever the size asked for."""

    root: Path

    def shape(self, name: str) -> tuple[int, ...]:
        return self._load(name, "r").shape

    def read(self, name: str, size: tuple[int, int]) -> NDArray[np.floating]:
        return self._load(name, None)

    def _load(self, name: str, mode: Any) -> NDArray[Any]:
        path = self.root / f"{name}.npy"
        try:
            values = np.load(path, mmap_mode=mode, allow_pickle=False)
        except FileNotFoundError:
            raise LussError(f"the attention {path} is missing") from None
        except Exception as error:  # np.load lets several kinds through for a damaged header.
            raise LussError(f"the attention {path} cannot be read as .npy ({error})") from error
        if not isinstance(values, np.ndarray):
            raise LussError(f"the attention {path} is an archive, not one .npy array")
        return values


@dataclass(frozen=True)
class Pair:
    """The files of one image, its predicted clusters and its true categories; `name` is "category/name", without an ending."""

    name: str
    prediction: Path
    mask: Path


def find_pairs(predictions: Path, masks: Path, only: Container[str] | None = None) -> tuple[list[Pair], list[str]]:
    """Pairs predictions with masks by their path below the two folders.

    Args:
        predictions: Folder of predictions.
        masks: Folder of masks. Hidden files do not count in either.
        only: Names ("category/name", without an ending) that count; None: all.

    Returns:
        Pairs in the order of their names, and a problem for each mask without a prediction and each prediction without
        a mask.

    Raises:
        LussError: A folder is absent, or there is no mask.
    """
    predicted, true = png_names(predictions, "predictions"), png_names(masks, "masks")
    if only is not None:
        predicted, true = ({name for name in names if name.removesuffix(".png") in only} for names in (predicted, true))
    if not true:
        raise LussError(f"{masks} holds no mask: expected <category>/<name>.png below it")
    problems = [
        f"{predictions / name}: missing, the mask {masks / name} has no prediction" for name in true - predicted
    ]
    problems += [f"{predictions / name}: surplus, there is no mask {masks / name}" for name in predicted - true]
    pairs = [Pair(name.removesuffix(".png"), predictions / name, masks / name) for name in sorted(true & predicted)]
    return pairs, sorted(problems)


def header_problems(pair: Pair, attention: AttentionSource | None) -> list[str]:
    """What the first bytes of an image's files tell: unreadable files, wrong modes, sizes that differ."""
    problems: list[str] = []
    prediction = _tell(problems, pair.prediction, lambda: _png_size(pair.prediction))
    mask = _tell(problems, pair.mask, lambda: _png_size(pair.mask))
    if prediction is not None and mask is not None and prediction != mask:
        problems.append(
            f"{pair.prediction}: size {prediction[0]} x {prediction[1]}, but its mask has {mask[0]} x {mask[1]} "
            "(width x height): resize it to the mask, with nearest neighbour"
        )
    if attention is not None:
        shape = _tell(problems, Path(pair.name), lambda: attention.shape(pair.name))
        if shape is not None and mask is not None and shape != mask[::-1]:
            problems.append(f"{pair.name}: the attention has shape {shape}, but the mask {mask[::-1]}")
    return problems


def _tell(problems: list[str], path: Path, read: Callable[[], tuple[int, ...] | None]) -> tuple[int, ...] | None:
    try:
        return read()
    except LussError as error:
        problems.append(f"{path}: {error}")
        return None


def png_names(folder: Path, word: str) -> set[str]:
    """The paths of all PNG files below a folder, with forward slashes, but for hidden ones.

    Raises:
        LussError: There is no such folder; `word` says what it should hold.
    """
    if not folder.is_dir():
        raise LussError(f"the folder of {word} {folder} does not exist")
    paths = (path.relative_to(folder) for path in folder.rglob("*.png"))
    return {path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)}


def _png_size(path: Path) -> tuple[int, int]:
    try:
        # The class rather than Image.open: that warns about large images and refuses very large ones.
        with open(path, "rb") as file, PngImagePlugin.PngImageFile(file, str(path)) as image:
            size, mode = image.size, image.mode
    except Exception as error:  # Pillow lets many kinds through for a damaged file.
        raise LussError(f"cannot be read as PNG ({error})") from error
    if mode != "RGB":
        raise LussError(f"mode {mode} instead of RGB with id = R + 256 * G")
    return size
