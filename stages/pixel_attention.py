"""Stage 2: learns which places of an image matter, over the frozen network of stage 1."""

from typing import Any

from luss import processes
from luss.data.views import ViewDataset
from luss.methods.saved import load_heads
from luss.models.attended import AttendedBackbone, load_attended
from luss.models.io import load_backbone, save_backbone, save_tensors
from luss.settings import PixelAttentionSettings, RunSettings, ViewSettings, no_colours
from luss.tasks.attention import AttentionTask, attention_clustering
from stages.base import AnyStage, BlockOf, Stage, StageContext
from stages.parts.images import train_manifest
from stages.parts.training import first_backbone, plateau, train, try_forward


def attention_settings(run: RunSettings) -> PixelAttentionSettings:
    """The settings of the stage; those of no training where nothing of what it learns would be read.

    That is where clusters come from layout descriptors, each image has one cluster, and its mask is its border saliency. (A threshold that is
    searched with masks is searched over validation images, whose clusters are those that their attention is nearest to.)
    """
    given, labels = run.pixel_attention, run.pseudo_labels
    own = run.cluster.layout_dim and labels.image_weight == 1 and labels.saliency == 1
    if not own or labels.threshold == "validation":
        return given
    # Defaults for all else: what cannot change a result makes nothing stale.
    return PixelAttentionSettings(epochs=0, shared=given.shared, target_stride=given.target_stride)


class PixelAttentionStage(Stage[PixelAttentionSettings]):
    """Product: `attention.safetensors`; with `batch_norm: drifting` also the drifted backbone."""

    version = 2
    seeded = True
    distributed = True
    work = "trained"

    def __init__(
        self, name: str, block: BlockOf[PixelAttentionSettings], manifest: AnyStage, start_from: AnyStage
    ) -> None:
        """As `Stage`; `start_from` has left a backbone and what its prototypes are."""
        super().__init__(name, block, manifest, start_from)
        self.start_from = start_from

    def network(self, context: StageContext) -> AttendedBackbone:
        """What this stage has left, for a later one: the frozen network and the attention over it, on the run's device."""
        first, settings = context.of(self.start_from), self.block(context.run)
        shared, stride = settings.shared, settings.target_stride
        return load_attended(first, context.of(self), shared=shared, target_stride=stride).to(context.device)

    def try_step(self, run: RunSettings, num_images: int) -> None:
        """With a clustering head of its own."""
        settings = self.block(run)
        task = AttentionTask(first_backbone(run), settings, None)
        dataset = ViewDataset([], _views(settings), seed=0, max_pixels=1)
        try_forward(self.name, task, dataset.noise(num_images), num_images)

    def run(self, context: StageContext) -> dict[str, Any]:
        """Trains from the newest checkpoint to the end and exports."""
        run, settings = context.run, self.block(context.run)
        if run.pixel_attention.epochs and not settings.epochs:
            context.reporter.message(
                "the attention is not trained: nothing reads it where cluster.layout_dim is set and pseudo_labels.image_weight and "
                "pseudo_labels.saliency are 1"
            )
        backbone = load_backbone(context.of(self.start_from))
        head = load_heads(context.of(self.start_from))
        pretrained = None
        if head is None:
            context.reporter.message("pretraining left no prototypes: a clustering head trains beside the attention")
        else:
            pretrained = attention_clustering(head.settings, settings, backbone.num_channels, head.state)
        task = AttentionTask(backbone, settings, pretrained)
        images = [train_manifest(context.run_folder)]
        dataset = ViewDataset(images, _views(settings), seed=run.seed, max_pixels=run.data.max_pixels)
        steps = train(context, task, dataset, settings)
        if processes.rank() == 0:
            save_tensors(context.folder / "attention.safetensors", task.attention.state_dict())
            if settings.batch_norm == "drifting":
                save_backbone(context.folder, backbone, backbone.export())
        return {"steps": steps, **plateau(context, task.clustering.settings.num_prototypes)}


def _views(settings: PixelAttentionSettings) -> list[ViewSettings]:
    """The groups of views that `AttentionTask` wants."""
    groups = [settings.views]
    if settings.saliency.weight:
        # The teacher needs the border of the whole photograph, in its own colours.
        size = settings.views.size
        groups.append(ViewSettings(count=1, size=size, scale=(1.0, 1.0), flip=0.0, colours=no_colours()))
    return groups
