"""Semi-supervised 1: trains backbone and segmentation head on the masks of train-semi."""

from luss.data.imagenet_s import IGNORE
from stages.base import StageContext
from stages.commands.stage import stage_main
from stages.finetune import Finetune, Labels
from stages.parts.train_semi import semi_labels


class SemiFinetune(Finetune):
    """Products: `model.safetensors` and `config.json`, whose ids are the categories; pixels of id 1000 are left out of the loss."""

    name = "semi_finetune"
    version = 1
    needs = ("manifest", "pretrain")
    predicted_by = "semi_predict"
    ignored_id = IGNORE

    def labels(self, context: StageContext) -> Labels:
        """The masks of train-semi."""
        masks = semi_labels(context)
        return Labels(masks.manifest.image_root, masks, masks.num_classes)


if __name__ == "__main__":
    stage_main("semi_finetune")
