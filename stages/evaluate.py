"""Stage 8: matches clusters to categories and computes the metrics of ImageNet-S, where masks exist."""

from typing import Any

from luss.benchmark.evaluator import count_folders
from luss.benchmark.matching import Matching
from luss.benchmark.metrics import evaluate
from luss.data.imagenet_s import category_ids
from luss.files import write_json
from stages.base import Stage, StageContext
from stages.command import stage_main
from stages.manifest import data_layout, num_classes


class Evaluate(Stage):
    """Product: `metrics.json`; without masks an empty list of splits, and no numbers.

    The first evaluated split with masks finds the matching; it is applied to the others, as the benchmark does from validation to test.
    """

    name = "evaluate"
    version = 1
    needs = ("predict",)

    def run(self, context: StageContext) -> dict[str, Any]:
        """Counts every split once."""
        layout, settings = data_layout(context.run.data), context.run.evaluate
        splits = [split for split in context.run.data.evaluate if split in layout.masks]
        result: dict[str, Any] = {"splits": {}}
        matching: Matching | str = settings.matching
        for split in splits:
            counts = count_folders(
                context.of("predict") / "masks" / split,
                layout.masks[split],
                num_classes=num_classes(context.run, layout),
                workers=settings.workers,
            )
            metrics = evaluate(counts, matching)  # type: ignore[arg-type]
            matching = metrics.matching
            result["splits"][split] = metrics.to_json()
        if splits:
            result = {**result["splits"][splits[0]], **result}
            result["used_labels_for_threshold"] = context.run.pseudo_labels.threshold == "validation"
            result["categories"] = list(category_ids(layout.image_folder("train")))
        else:
            context.reporter.message(
                "no masks were found: there is nothing to evaluate, the predictions are the result"
            )
        write_json(context.folder / "metrics.json", result)
        return {
            f"{split} {name}": float(result["splits"][split][name])
            for split in splits
            for name in ("miou", "image_accuracy", "f_measure")
        }


if __name__ == "__main__":
    stage_main("evaluate")
