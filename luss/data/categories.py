"""Known categories: where a data set has them, an image's is the first folder of its name."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray


def categories_of(names: Iterable[str]) -> Iterator[str | None]:
    """The first folder of each name (`Manifest.names`); None for an image directly in the root."""
    for name in names:
        first, slash, _ = name.partition("/")
        yield first if slash else None


def numbered_categories(categories: Iterable[str | None], num: int) -> tuple[NDArray[np.int32], list[str]]:
    """Numbers categories by their first appearance: 4 bytes an image in memory, and each name once.

    Args:
        categories: Category of each image; None for none. Read once.
        num: How many images they are.

    Returns:
        (num,) number of each image's category, -1 for none, and the name of every number.

    Raises:
        ValueError: There are fewer than `num`.
    """
    numbers: dict[str, int] = {}
    numbered = np.fromiter(
        (-1 if name is None else numbers.setdefault(name, len(numbers)) for name in categories), np.int32, num
    )
    return numbered, list(numbers)
