"""The segmenter as one graph of tensors: photograph in, labels out. What the ONNX and torch.export files hold."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import luss.compat  # noqa: F401  (before timm)
from luss.data.resized import nearest_multiple
from luss.errors import LussError
from luss.export.formats import ExportRequest, FileFormat
from luss.files import replacing, write_json
from luss.models.convolutional import ConvBackbone
from luss.models.io import WEIGHTS_NAME, decoding_entries, sha256_of
from luss.models.segmenter import SegmentationNetwork, object_logits
from luss.settings import PredictSettings

# isort: split
from timm.layers import padding

INPUT, OUTPUTS = "images", ("logits", "labels")
# torch specialises sizes of 0 and 1, so the example has none; its sides differ so that they are not taken for one.
_EXAMPLE = (2, 3, 64, 96)


class DecodedSegmenter(nn.Module):
    """Normalisation, network, and the decision of each pixel."""

    def __init__(self, network: SegmentationNetwork, settings: PredictSettings) -> None:
        """Takes over the network; `settings` say how logits become labels."""
        super().__init__()
        self.network = network
        self.total_foreground, self.image_weight = settings.total_foreground, settings.image_weight

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Segments images of one shape.

        Args:
            images: (B, 3, H, W) float32 RGB in 0..1, resized as `luss predict` does (short side, antialiased bilinear).

        Returns:
            (B, C + 1, h, w) float32 logits as decided upon, and (B, H, W) int64 ids, 0 = background.
        """
        logits = self.network(self.network.backbone.normalise(images))
        logits = object_logits(logits, total_foreground=self.total_foreground, image_weight=self.image_weight).float()
        size = (images.shape[2], images.shape[3])
        return logits, F.interpolate(logits, size=size, mode="bilinear", align_corners=False).argmax(dim=1)


@dataclass(frozen=True)
class Graph:
    """A traced segmenter.

    Attributes:
        program: The graph.
        dynamic: Whether batch, height and width are free; else only batches of the example's shape fit.
        smallest_side: Pixels that both sides need where they are free: many graphs take a map of one position for another program.
        multiple: What free sides must be multiples of.
        example: (B, 3, H, W) of the images it was traced with.
    """

    program: ExportedProgram
    dynamic: bool
    smallest_side: int
    multiple: int
    example: tuple[int, int, int, int]


Run = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Runs a written graph: images to logits and labels."""
Write = Callable[[Graph, Path], Run]
"""Writes a graph to a file and says how to run what was written."""


def trace(network: SegmentationNetwork, settings: PredictSettings, *, free: bool = True) -> Graph:
    """Traces a segmenter.

    Args:
        network: On the CPU, in eval mode.
        settings: How logits become labels; a fixed size is `short_side` squared.
        free: Whether batch, height and width are free. Nobody has looked whether they are; see `write_graph`.

    Raises:
        Exception: torch cannot trace the network so; which error says this differs between versions and networks.
    """
    module, backbone = DecodedSegmenter(network, settings).eval(), network.backbone
    with quiet_tracing(), _whole_number_padding(), torch.no_grad():
        if not free:
            side = backbone.nearest_side(settings.short_side)
            fixed = (1, 3, side, side)
            return Graph(torch.export.export(module, (torch.zeros(fixed),)), False, side, side, fixed)
        if isinstance(backbone, ConvBackbone) and backbone.has_final_norm:
            raise NotImplementedError("windows of attention over a free size take torch minutes to trace")
        batch, colours, *sides = _EXAMPLE
        rows, columns = (
            Dim.DYNAMIC if backbone.multiple == 1 else backbone.multiple * Dim(side, min=2)
            for side in ("rows", "columns")
        )
        example = (batch, colours, backbone.nearest_side(sides[0]), backbone.nearest_side(sides[1]))
        shapes = {INPUT: {0: Dim.DYNAMIC, 2: rows, 3: columns}}
        program = torch.export.export(module, (torch.zeros(example),), dynamic_shapes=shapes)
        # The smallest map has two positions.
        smallest = nearest_multiple(backbone.stride + backbone.multiple, backbone.multiple)
        return Graph(program, True, smallest, backbone.multiple, example)


def write_graph(network: SegmentationNetwork, settings: PredictSettings, path: Path, write: Write) -> Graph:
    """Writes a segmenter with free batch, height and width where what was written holds at other sizes than the traced one, else at a fixed one.

    Args:
        network, settings: See `trace`.
        path: The file.
        write: The format.

    Returns:
        The graph that was written, with the sizes at which the file was run and gave what the network gives.

    Raises:
        LussError: torch, or the format, cannot hold this network at any size; the disk is full.
    """
    problem: Exception | None = None
    for free in (True, False):
        try:
            graph = trace(network, settings, free=free)
            with quiet_tracing(), replacing(path) as temporary:
                # What holds for one size is not worth the minutes that a format may take.
                module = DecodedSegmenter(network, settings).eval()
                if free and not _holds(module, graph.program.module(check_guards=False), _shapes(graph, settings)[-1]):
                    raise ValueError("it holds for the size alone that it was traced at")
                return _tried(graph, module, write(graph, temporary), settings)
        except LussError:
            raise
        except Exception as error:
            # Each format and each version of torch has its own for what it cannot hold.
            problem = error
    reason = (str(problem).strip() or type(problem).__name__).splitlines()[0][:200]
    raise LussError(
        f"{network.backbone.name} cannot be written as {path.suffix} ({reason}): use --format model, which luss predict reads, or another backbone"
    ) from problem


def _tried(graph: Graph, module: DecodedSegmenter, run: Run, settings: PredictSettings) -> Graph:
    """The graph, with the smallest side that holds; ValueError where the sizes that it promises do not."""
    shapes = _shapes(graph, settings) if graph.dynamic else [graph.example]
    for shape in shapes:
        if not _holds(module, run, shape):
            raise ValueError(f"it does not hold for images of {shape[2]} x {shape[3]}")
    if not graph.dynamic:
        return graph
    for side in range(graph.smallest_side, max(graph.example[2:]) + 1, graph.multiple):
        if _holds(module, run, (1, 3, side, side)) and _holds(module, run, (3, 3, side, 2 * side)):
            return replace(graph, smallest_side=side)
    raise ValueError("it holds for large images only")


def _shapes(graph: Graph, settings: PredictSettings) -> list[tuple[int, int, int, int]]:
    """Images as they come: square, wide and tall, and of other parity."""
    side = max(*graph.example[2:], nearest_multiple(settings.short_side, graph.multiple))
    wide = nearest_multiple(side * 4 // 3, graph.multiple) + graph.multiple
    return [(1, 3, side, side), (2, 3, side, wide), (1, 3, wide, side + graph.multiple)]


def _holds(module: DecodedSegmenter, run: Run, shape: tuple[int, int, int, int]) -> bool:
    """Whether a written graph gives the network's logits for images of a shape; labels may differ where two are equally large."""
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    try:
        logits, labels = run(images)
    except Exception:
        return False
    with torch.no_grad():
        expected = module(images)[0]
    close = logits.shape == expected.shape and torch.allclose(
        logits, expected, 1e-2, 1e-3 * float(expected.abs().max())
    )
    return close and labels.shape == (shape[0], *shape[2:])


def graph_notes(graph: Graph, settings: PredictSettings, names: Mapping[int, str], **extra: Any) -> dict[str, Any]:
    """What a program that runs the graph has to know, as JSON values."""
    batch, _, height, width = graph.example
    return {
        "input": {
            "name": INPUT,
            "shape": ["batch", 3, "height", "width"] if graph.dynamic else [batch, 3, height, width],
            "smallest_side": graph.smallest_side,
            "multiple_of": graph.multiple,
            "values": "float32 RGB in 0..1, not normalised; the image resized so that its short side is `short_side`, antialiased, "
            "its long side at most `max_aspect` times that, to a multiple of `size_multiple`",
        },
        "outputs": {
            "logits": "float32 (batch, classes, height / stride, width / stride)",
            "labels": "int64 (batch, height, width), 0 = background; `total_foreground` and `image_weight` are applied already",
        },
        **decoding_entries(settings),
        "names": {str(i): name for i, name in sorted(names.items())},
        **extra,
    }


def graph_format(
    export: Callable[[SegmentationNetwork, PredictSettings, Path], Graph], *, suffix: str, runs_in: str
) -> FileFormat:
    """A format that is the file that was asked for, or `model<suffix>` in the folder, and a JSON of the same name beside it.

    `export` writes the file, and `runs_in` says what reads it.
    """

    def write_both(request: ExportRequest) -> str:
        path = request.out if request.out.suffix == suffix else request.out / f"model{suffix}"
        if path.is_dir() or (path.parent.exists() and not path.parent.is_dir()):
            raise LussError(f"{path} cannot be a file there: give another --out")
        segmenter = request.segmenter()
        settings, notes = segmenter.settings, path.with_suffix(".json")
        graph = export(segmenter.network, settings, path)
        digest = sha256_of(segmenter.folder / WEIGHTS_NAME)
        write_json(notes, graph_notes(graph, settings, segmenter.names, sha256_of_model=digest))
        height, width = graph.example[2:]
        of = f"multiples of {graph.multiple}, " if graph.multiple > 1 else ""
        shape = f"any batch, height and width ({of}{graph.smallest_side} pixels at least)"
        if not graph.dynamic:
            shape = f"one image of {height} x {width} at a time, no other size"
        return f"{path}: takes {shape}; {notes} says how to use it; runs in {runs_in}"

    return write_both


@contextlib.contextmanager
def _whole_number_padding() -> Iterator[None]:
    """Lets timm compute "same" padding without `math.ceil`, which a .pt2 file cannot hold (torch 2.13); the numbers are the same."""
    usual: Any = padding.get_same_padding

    def whole(x: Any, kernel_size: int, stride: int, dilation: int) -> Any:
        if isinstance(x, Tensor):
            return usual(x, kernel_size, stride, dilation)
        return max((-(-x // stride) - 1) * stride + (kernel_size - 1) * dilation + 1 - x, 0)

    padding.get_same_padding = whole
    try:
        yield
    finally:
        padding.get_same_padding = usual


@contextlib.contextmanager
def quiet_tracing() -> Iterator[None]:
    """Mutes what torch says to its own developers while it traces and converts; the result is checked by its labels."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    with warnings.catch_warnings(), contextlib.ExitStack() as after:
        after.callback(logger.setLevel, level)
        logger.setLevel(logging.ERROR)
        # torch's tree utilities use a class of their own that they have deprecated (torch 2.13).
        warnings.filterwarnings("ignore", message=r".*treespec, LeafSpec.*", category=FutureWarning)
        yield
