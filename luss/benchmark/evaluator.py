"""Evaluating folders of files, on as many processes as wanted, or maps in memory."""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from luss.benchmark.counts import Accumulator, Counts
from luss.benchmark.folders import (
    AttentionFolder,
    AttentionSource,
    EvaluationInputError,
    Pair,
    find_pairs,
    header_problems,
)
from luss.benchmark.image import Attention, ImageCounter, Map
from luss.benchmark.levels import DEFAULT_THRESHOLDS
from luss.benchmark.matching import load_matching
from luss.benchmark.metrics import MatchingChoice, Metrics, evaluate, fixed_matching
from luss.benchmark.worker import CountTask, count_chunk, start_worker
from luss.data.worker_faults import starting_workers
from luss.errors import LussError

_CHUNK = 32
"""Images a worker counts before it reports: enough to hide the cost of the report."""

IMAGES_A_WORKER = 32
"""No process is started for fewer images: its start takes as long as counting some twenty of 500 x 375."""

Item = tuple[Map, Map] | tuple[Map, Map, Attention]
"""Prediction, mask and, with thresholds, attention of one image."""

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


def evaluate_folders(
    predictions: Path | str,
    masks: Path | str,
    *,
    num_classes: int,
    num_clusters: int = 0,
    matching: MatchingChoice | Path = "hungarian",
    attention: Path | AttentionSource | None = None,
    thresholds: Sequence[float] | None = None,
    workers: int = 1,
    allow_foreign_ids: bool = False,
    progress: Progress | None = None,
) -> Metrics:
    """Evaluates a folder of predictions against a folder of masks.

    Example:
        >>> import luss
        >>> metrics = luss.evaluate("outputs/demo/predict/masks/validation", "shapes/validation-segmentation", num_classes=10)
        >>> metrics.num_images
        10
        >>> 0 <= metrics.miou <= 100
        True

    Args:
        predictions: `<category>/<name>.png`, RGB, cluster id = R + 256 G, of the masks' names and sizes.
        masks: `<category>/<name>.png`, RGB, category id = R + 256 G, 1000 where nothing counts.
        num_classes: C.
        num_clusters: The largest id of predictions where that is above C; see `luss.benchmark.metrics.evaluate`.
        matching: "hungarian", "identity", a matching, or its JSON file.
        attention: Folder of `<category>/<name>.npy`, or any other source.
        thresholds: Attention thresholds to search, strictly ascending; without them 0.00, 0.01, ..., 0.80 when there is
            attention.
        workers: At most so many processes, fewer for few images (`IMAGES_A_WORKER`); 1 works in this one. More need the
            usual `if __name__ == "__main__"` in a script.
        allow_foreign_ids: Whether predictions may hold ids above C, see `ImageCounter`.
        progress: Told how far it is.

    Raises:
        EvaluationInputError: Files are missing, surplus, damaged, of the wrong mode or size, or hold ids out of range;
            all of them.
        LussError: A folder is absent or empty, or an argument is out of range.
    """
    if isinstance(matching, Path):
        matching = load_matching(matching, max(num_classes, num_clusters))
    fixed_matching(matching, max(num_classes, num_clusters))  # a wrong one is told now, not after counting
    counts = count_folders(
        Path(predictions),
        Path(masks),
        num_classes=max(num_classes, num_clusters),
        attention=attention,
        thresholds=thresholds,
        workers=workers,
        allow_foreign_ids=allow_foreign_ids,
        progress=progress,
    )
    return evaluate(counts, matching, num_categories=num_classes)


def count_folders(
    predictions: Path,
    masks: Path,
    *,
    num_classes: int,
    attention: Path | AttentionSource | None = None,
    thresholds: Sequence[float] | None = None,
    workers: int = 1,
    allow_foreign_ids: bool = False,
    progress: Progress | None = None,
    only: Container[str] | None = None,
) -> Counts:
    """The counting half of `evaluate_folders`, with the same arguments and errors.

    With `only`, images of other names ("category/name", without an ending) are looked for in neither folder.

    Every file is opened for its header first, so that most mistakes show at once; ids are checked while they are
    counted, which decodes each image once. Whatever shows when, the error lists the problems of all files.
    """
    if workers < 1:
        raise LussError(f"the number of workers must be at least 1, not {workers}")
    if isinstance(attention, Path):
        if not attention.is_dir():
            raise LussError(f"the folder of attention {attention} does not exist")
        attention = AttentionFolder(attention)
    if attention is not None and thresholds is None:
        thresholds = DEFAULT_THRESHOLDS
    if attention is None and thresholds is not None:
        raise LussError("thresholds apply to attention: give the folder of attention as well")
    counter = ImageCounter(num_classes, thresholds, allow_foreign_ids=allow_foreign_ids)
    pairs, problems = find_pairs(predictions, masks, only)
    healthy = []
    for pair in pairs:
        found = header_problems(pair, attention)
        problems += found
        if not found:
            healthy.append(pair)
    task = CountTask(counter, attention, check_only=bool(problems))
    total = Accumulator(Counts.empty(num_classes, counter.thresholds))
    num_done = 0
    for chunk, (counts, found) in _run(task, healthy, workers):
        problems += found
        if not problems:
            total.add(counts)
        num_done += len(chunk)
        if progress is not None:
            progress(num_done, len(healthy))
    if problems:
        raise EvaluationInputError(problems)
    return total.total()


def evaluate_maps(
    items: Iterable[Item],
    *,
    num_classes: int,
    matching: MatchingChoice = "hungarian",
    thresholds: Sequence[float] | None = None,
    allow_foreign_ids: bool = False,
) -> Metrics:
    """Evaluates maps in memory; see `evaluate_folders`.

    Args:
        items: (prediction, mask), with thresholds (prediction, mask, attention), each (H, W). Read once, one at a time.
        num_classes: C.
        matching: "hungarian", "identity" or a matching.
        thresholds: Attention thresholds to search.
        allow_foreign_ids: See `ImageCounter`.

    Raises:
        LussError: A map has the wrong shape or ids (the error names its position), or there is none.
    """
    counter = ImageCounter(num_classes, thresholds, allow_foreign_ids=allow_foreign_ids)
    total = Accumulator(Counts.empty(num_classes, counter.thresholds))
    for position, item in enumerate(items):
        try:
            total.add(counter.count(*item))
        except LussError as error:
            raise LussError(f"image {position}: {error}") from error
    return evaluate(total.total(), matching)


def _run(task: CountTask, pairs: list[Pair], workers: int) -> Iterator[tuple[list[Pair], tuple[Counts, list[str]]]]:
    workers = min(workers, max(1, len(pairs) // IMAGES_A_WORKER))
    size = max(1, min(_CHUNK, len(pairs) // (4 * workers)))
    chunks = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    if workers == 1:
        yield from ((chunk, task(chunk)) for chunk in chunks)
        return
    # "spawn": forking a process that has threads (torch, BLAS) can hang it.
    context = multiprocessing.get_context("spawn")
    with starting_workers(workers, "the evaluation's workers", alone=1):
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker, initargs=(task,))
    try:
        with _signals_blocked(), starting_workers(workers, "the evaluation's workers", alone=1):
            results = pool.map(count_chunk, chunks)
        yield from zip(chunks, results, strict=True)
    except BrokenProcessPool as error:
        raise LussError(
            "a worker process of the evaluation died, perhaps for want of memory: evaluate with fewer workers"
        ) from error
    finally:
        # Whoever stops listening, by Ctrl-C or an error, does not wait for the chunks that nobody has begun.
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """What asks to stop reaches the whole process group: workers started in here inherit the mask and leave it to this process."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR2, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
