"""The pseudo labels' own score: the masks that centroids and attention give of evaluated images, without fine-tuning (PASS table 5.8)."""

from collections.abc import Sequence
from dataclasses import replace

from luss.benchmark.counts import Accumulator, Counts
from luss.benchmark.image import ImageCounter
from luss.benchmark.metrics import MatchingChoice, Metrics, evaluate
from luss.labels.store import LabelStore
from stages.base import StageContext
from stages.parts.images import categories_of, data_layout, listed_split, num_classes
from stages.pipeline import LABELS
from stages.running.folder import done_record


def label_metrics(
    context: StageContext, splits: Sequence[str], thresholds: Sequence[float] | None
) -> dict[str, Metrics]:
    """The metrics of every split; the first one finds the matching and, of several thresholds, the best, which hold for the others too.

    The edits of `luss labels` count. An image's own cluster, where `pseudo_labels.image_weight` asks for it, is the one nearest to its pooled
    vector.

    Args:
        context: Of the baselines; label maps are kept in its folder, so that a stopped try goes on, and another threshold takes seconds.
        splits: Those that have masks.
        thresholds: Ascending; None = the one that the run's labels have now.

    Raises:
        LussError: A mask cannot be read, or holds ids that are no category.
        Interrupted: A stop was asked for; the next try continues.
    """
    run, found = context.run, dict[str, Metrics]()
    store = LabelStore.open(context.of(LABELS) / "labels")
    asked: tuple[float, ...] = (store.threshold,) if thresholds is None else tuple(thresholds)
    matching: MatchingChoice = run.evaluate.matching
    for split in splits:
        counts = _count(context, split, store, asked)
        found[split] = evaluate(counts, matching, num_categories=categories_of(data_layout(run.data)))
        matching, asked = found[split].matching, (found[split].threshold or 0.0,)
    return found


def _count(context: StageContext, split: str, store: LabelStore, thresholds: tuple[float, ...]) -> Counts:
    own = _place(context)
    manifest = listed_split(own, split, message=context.reporter.message)
    maps = LABELS.labelled(own, manifest, f"labels-{split}")
    largest = num_classes(LABELS.num_clusters(context.run), data_layout(context.run.data))
    counter, table = ImageCounter(largest, thresholds), store.layer.table(store.num_clusters)
    total = Accumulator(Counts.empty(largest, counter.thresholds))
    context.reporter.start("mask", len(maps), 0)
    for index, (labels, mask, attention) in enumerate(LABELS.beside_masks(own, maps, split)):
        total.add(counter.count(table[labels], mask, attention))
        context.reporter.advance(index + 1)
    return total.total()


def _place(context: StageContext) -> StageContext:
    """Where the maps of a split are those of the labels as they are now."""
    return replace(context, fingerprint=str(done_record(context.run_folder, LABELS.name)["id"]))
