"""Semi-supervised 2: masks for every evaluated split, by the network that was trained on masks."""

from stages.commands.stage import stage_main
from stages.predict import Predict


class SemiPredict(Predict):
    """Products: `masks/<split>/<name>.png`, ids are categories, and a contact sheet `clusters-<split>.png` of a row a category."""

    name = "semi_predict"
    version = 1
    needs = ("manifest", "semi_finetune")
    model = "semi_finetune"


if __name__ == "__main__":
    stage_main("semi_predict")
