"""What a format is, and what it is given."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luss.export.job import Writer
from luss.export.labelled import LabelledImages
from luss.settings import RunSettings

if TYPE_CHECKING:
    # Torch takes seconds, and the formats of labels do without.
    from luss.models.backbone import Backbone
    from luss.segmenter import Segmenter


@dataclass(frozen=True)
class LabelFormat:
    """A format of images with label maps: a folder with a data card, written by `luss.export.job`.

    Attributes:
        text: What lies in the folder and how to read it, Markdown for the card; `SPLIT` stands for the split.
        writer: Makes the writer, given the folder, the images, and the position where an earlier try stopped or None.
        finish: Called with folder and images when all images are written.
        only_split: The one split that the format can hold; empty = any.
        with_images: Whether the files of the images are read, so that they must be there.
    """

    text: str
    writer: Callable[[Path, LabelledImages, Mapping[str, Any] | None], Writer]
    finish: Callable[[Path, LabelledImages], None] = lambda folder, images: None
    only_split: str = ""
    with_images: bool = False


@dataclass(frozen=True)
class Submitted:
    """The masks of one split that a submission consists of.

    Attributes:
        split: Its name.
        masks: Folder of `<category>/<name>.png`.
        stage: Which stage predicted them.
        are_clusters: Whether their ids are clusters, which need a matching; else they are categories.
        matching: Cluster to category; None where none was found.
    """

    split: str
    masks: Path
    stage: str
    are_clusters: bool
    matching: Mapping[int, int] | None


@dataclass(frozen=True)
class ExportRequest:
    """What was asked for, and the parts of a run. A part is looked for when a format asks; LussError says which stage makes it.

    Attributes:
        out: The file or folder to write.
        split: Which images; empty = the usual ones of the format.
        settings: Of the run.
        segmenter: Loads the model, on the CPU.
        backbones: Loads what was trained: "pretrained", "finetuned", or both.
        submitted: Finds the predicted masks of a split; of the usual one for an empty name.
    """

    out: Path
    split: str
    settings: RunSettings
    segmenter: Callable[[], "Segmenter"]
    backbones: Callable[[], "dict[str, Backbone]"]
    submitted: Callable[[str], Submitted]


FileFormat = Callable[[ExportRequest], str]
"""A format that is written in one go: writes `request.out` and returns a sentence for the screen."""

Format = LabelFormat | FileFormat
