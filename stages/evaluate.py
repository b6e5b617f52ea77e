"""Stage 8: matches clusters to categories and computes the metrics of ImageNet-S, where masks exist."""

from typing import Any

from luss.settings import EvaluateSettings, SemiEvaluateSettings
from stages.base import BlockOf, Stage, StageContext
from stages.parts.images import categories_of, data_layout, num_classes
from stages.parts.metrics import count_splits, evaluate_splits, figures, write_metrics
from stages.parts.train_semi import num_categories
from stages.predict import Predict
from stages.pseudo_labels import PseudoLabelsStage


class Evaluate(Stage[EvaluateSettings | SemiEvaluateSettings]):
    """Product: `metrics.json`; without masks an empty list of splits, and no numbers.

    The first evaluated split with masks finds the matching; it is applied to the others, as the benchmark does from validation to test.
    Nothing is matched where predicted ids are categories already.
    """

    version = 2
    work = "counting"

    def __init__(
        self, name: str, block: BlockOf[EvaluateSettings | SemiEvaluateSettings], masks: Predict, *, protocol: str
    ) -> None:
        """As `Stage`; `masks` predicted the ids: categories where the block has no `matching`. `protocol`: its name, for who reads the numbers."""
        super().__init__(name, block, masks)
        self.masks, self.protocol = masks, protocol

    def run(self, context: StageContext) -> dict[str, Any]:
        """Counts every split once."""
        run, layout = context.run, data_layout(context.run.data)
        settings, labels = self.block(run), self.masks.model.learn_from
        facts: dict[str, Any] = {"protocol": self.protocol}
        matching = settings.matching if isinstance(settings, EvaluateSettings) else "identity"
        if isinstance(labels, PseudoLabelsStage):
            largest = num_classes(labels.num_clusters(run), layout)
            facts["clusters"] = labels.num_clusters(run)
            facts["used_labels_for_threshold"] = labels.block(run).threshold == "validation"
        else:
            # However many clusters the run has.
            largest = num_categories(layout)
        counts = count_splits(context, context.of(self.masks) / "masks", num_classes=largest, workers=settings.workers)
        metrics = evaluate_splits(counts, matching, categories_of(layout))
        write_metrics(context, metrics, facts)
        return figures(metrics)
