"""Stage 7: masks for every evaluated split."""

from collections.abc import Iterator
from typing import Any

from luss.data.manifest import Manifest
from luss.models.io import load_segmenter
from luss.predict import Predicted, predict_images
from luss.settings import PredictSettings
from stages.base import AnyStage, BlockOf, StageContext, StagePlace
from stages.finetune import Finetune
from stages.parts.masks import MaskPlan, join_masks, mask_maker
from stages.sharded import Maker, ShardedStage


class Predict(ShardedStage[PredictSettings]):
    """Products: `masks/<split>/<name>.png`, and a contact sheet `clusters-<split>.png`.

    Where no evaluated split exists, as in a plain folder of images, the training images themselves are segmented.
    """

    work = "array"
    by_split = True

    def __init__(self, name: str, block: BlockOf[PredictSettings], manifest: AnyStage, model: Finetune) -> None:
        """As `Stage`; the network of `model` segments."""
        super().__init__(name, block, manifest, model)
        self.model = model

    def plan(self, place: StagePlace) -> MaskPlan:
        """Ranges of `shard_size` images of each evaluated split."""
        return MaskPlan(place, self.block(place.run).shard_size)

    def maker(self, context: StageContext, plan: MaskPlan) -> Maker:
        """Loads the network once."""
        network = load_segmenter(context.of(self.model))[0].to(context.device)
        settings, limit, warn = self.block(context.run), context.run.data.max_pixels, context.reporter.warn

        def segment(manifest: Manifest, indices: list[int]) -> Iterator[Predicted]:
            return predict_images(
                network, manifest, indices, settings, device=context.device, max_image_pixels=limit, warn=warn
            )

        return mask_maker(plan, segment)

    def join(self, context: StageContext, plan: MaskPlan) -> dict[str, Any]:
        """Writes the contact sheets."""
        return join_masks(context, plan)
