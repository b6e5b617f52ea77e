"""What every format of `luss export` is given."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from luss.settings import RunSettings


@dataclass(frozen=True)
class ExportRequest:
    """One export.

    Attributes:
        run: The run's settings.
        folder: The run's folder.
        out: The file or folder to write.
        split: Which images.
        console: Where news go.
    """

    run: RunSettings
    folder: Path
    out: Path
    split: str
    console: Console
