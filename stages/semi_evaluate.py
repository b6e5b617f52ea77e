"""Semi-supervised 3: the metrics of ImageNet-S, where masks exist; nothing is matched."""

from typing import Any

from luss.data.imagenet_s import Layout
from luss.settings import RunSettings
from stages.commands.stage import stage_main
from stages.evaluate import Evaluate
from stages.parts.train_semi import num_categories


class SemiEvaluate(Evaluate):
    """Product: `metrics.json`; without masks an empty list of splits, and no numbers. Predicted ids are categories already."""

    name = "semi_evaluate"
    version = 1
    needs = ("semi_predict",)
    predicted_by = "semi_predict"

    def matching(self, run: RunSettings) -> str:
        """None: ids are compared as they are."""
        return "identity"

    def num_classes(self, run: RunSettings, layout: Layout) -> int:
        """C, however many clusters the run has."""
        return num_categories(layout)

    def facts(self, run: RunSettings) -> dict[str, Any]:
        """Which protocol."""
        return {"protocol": "semi_supervised"}


if __name__ == "__main__":
    stage_main("semi_evaluate")
