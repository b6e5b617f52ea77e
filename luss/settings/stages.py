"""One block a stage, in the order in which the data flows; pretraining's is in `luss.settings.training`."""

from dataclasses import dataclass, field
from typing import Literal

from luss.settings.fields import above, area, at_least, one_of, setting, share, transient, weights, within
from luss.settings.training import ClusteringSettings, ConvolutionStart, Precision, TrainSettings
from luss.settings.views import ColourSettings, ViewSettings, no_colours, unread_masks

Engine = Literal["auto", "faiss", "torch"]


@dataclass
class SaliencySettings:
    """A label-free teacher for the attention: pixels that differ from the image's border (see `luss.models.saliency`)."""

    # 0 = off, as published: the attention then learns from the clustering loss alone.
    weight: float = at_least(0, 0.0)
    # Weight of the distance from the centre in the teacher.
    centre: float = at_least(0, 0.5)


@dataclass
class PixelAttentionSettings(TrainSettings):
    """Stage 2: per-channel attention over frozen features (equation 5.6)."""

    views: ViewSettings = field(default_factory=lambda: ViewSettings(2, 224, (0.08, 1.0)))
    # One attention map for all channels instead of one a channel.
    shared: bool = False
    # First weights of the attention's convolutions; kaiming: normal with variance 2 / fan-out (the published code).
    convolution_start: ConvolutionStart = "torch"
    # Stride in pixels to which the last feature map is resized before attention, clustering and labelling.
    target_stride: int = above(0, 8)
    queue_length: int = at_least(0, 3840)
    queue_start_epoch: int = at_least(0, 0)
    # Whether pretrained prototypes go on training (the published code: true).
    train_prototypes: bool = False
    # drifting: the frozen network's batch norms go on averaging (the published code).
    batch_norm: Literal["frozen", "drifting"] = "frozen"
    # Which views the attention's batch norms, and drifting ones of the network, see together: all of them (the published code), or each by itself.
    attention_batch: Literal["all_views", "each_view"] = "all_views"
    # The clustering head that is trained here where pretraining leaves none; its queue is the one above.
    head: ClusteringSettings = field(
        default_factory=lambda: ClusteringSettings(freeze_prototypes_steps=0, draw_prototypes_steps=100)
    )
    saliency: SaliencySettings = field(default_factory=SaliencySettings)

    def problems(self) -> list[str]:
        """At least two views of whole images, and one queue, that holds a batch."""
        found = [
            *super().problems(),
            *unread_masks(self),
            *ClusteringSettings(queue_length=self.queue_length).too_short(self.images_a_pass),
        ]
        if self.views.count < 2:
            found.append(f"views.count is {self.views.count}: at least 2 views are compared")
        usual = ClusteringSettings()
        for name in ("queue_length", "queue_start_epoch"):
            if getattr(self.head, name) != getattr(usual, name):
                found.append(f"head.{name} is not read: set pixel_attention.{name}, which holds with every head")
        return found


@dataclass
class ExtractFeaturesSettings:
    """Stage 3: one attention-pooled vector an image."""

    resize: int = above(0, 256)
    crop: int = above(0, 224)
    dtype: Literal["float16", "float32"] = "float32"
    shard_size: int = above(0, 16384)
    # What the layout descriptors beside the pooled vectors are made of: 1 to 4 = the backbone's stages, 0 = the image's own oriented
    # gradients. None = no descriptors, as published.
    layout_stages: list[int] = field(default_factory=list)
    # Cells a side of that layout.
    layout_grid: int = above(0, 4)
    # true: the descriptors are the mean over the image and its mirror image.
    layout_mirror: bool = False
    # unit: pools unit vectors, those that the attention was trained on (the paper); raw: as they are (the published code).
    pool: Literal["unit", "raw"] = "unit"
    batch_size: int = above(0, 64, transient=True)
    workers: int = at_least(0, 2, transient=True)
    precision: Precision = "fp32"

    def problems(self) -> list[str]:
        """Crops that fit, stages that exist."""
        found = []
        if self.crop > self.resize:
            found.append(f"crop ({self.crop}) is larger than resize ({self.resize})")
        if any(stage not in range(5) for stage in self.layout_stages):
            found.append(f"layout_stages is {self.layout_stages}: stages are 0 (gradients) to 4")
        return found


@dataclass
class ClusterSettings:
    """Stage 4: k-means over the feature vectors."""

    # Label maps hold ids up to 65535.
    num_clusters: int = within(1, 65535, 50)
    # Components of the layout descriptors that are clustered in place of the pooled vectors; 0 = the pooled vectors, as published.
    layout_dim: int = at_least(0, 0)
    # Weight of each of extract_features.layout_stages in them.
    layout_weights: list[float] = weights([])
    # Power of the whitening of those components, 0 to 1.
    whitening: float = share(0.5)
    engine: Engine = "auto"
    metric: Literal["cosine", "euclidean"] = "cosine"
    num_iterations: int = above(0, 20)
    num_restarts: int = above(0, 30)
    chunk_size: int = above(0, 65536, transient=True)


@dataclass
class WholeImageSettings:
    """A pass over whole images: their size, and how they share batches."""

    short_side: int = above(0, 256)
    # The long side is rounded to a multiple of this, so that images share batches; 1 = keep the aspect exactly.
    size_multiple: int = above(0, 1)
    max_aspect: float = at_least(1, 8.0)
    batch_size: int = above(0, 16, transient=True)
    workers: int = at_least(0, 2, transient=True)
    precision: Precision = "fp32"


@dataclass
class PseudoLabelsSettings(WholeImageSettings):
    """Stage 5: a label map an image."""

    size_multiple: int = above(0, 16)
    # "auto" (from the attention alone), "validation" (searched with ground truth: reports say so) or a number in [0, 1].
    threshold: str = "auto"
    # Share of the image's own cluster in each position's score: 0 = every position alone (published), 1 = one cluster an image. The rest of
    # the score is the position's cosine.
    image_weight: float = share(0.0)
    # Share of the border saliency in the attention that is stored and thresholded: 0 = the learned attention alone (published).
    saliency: float = share(0.0)
    shard_size: int = above(0, 8192)
    batch_size: int = above(0, 32, transient=True)

    def problems(self) -> list[str]:
        """A threshold is a word or a number."""
        try:
            valid = self.threshold in ("auto", "validation") or 0 <= float(self.threshold) <= 1
        except ValueError:
            valid = False
        return [] if valid else [f"threshold is {self.threshold!r}: use auto, validation, or a number from 0 to 1"]


@dataclass
class FinetuneSettings(TrainSettings):
    """Stage 6: backbone and a 1x1 head trained on the pseudo labels."""

    size: int = above(0, 224)
    scale: tuple[float, float] = area((0.08, 1.0))
    colours: ColourSettings = field(default_factory=no_colours)
    # Stride of the fine-tuned network's last feature map (0 = as pretrained).
    output_stride: int = one_of(0, 0, 8, 16, 32)
    # Labels and logits meet at size / this.
    label_stride: int = above(0, 2)
    # First weights of the segmentation head; kaiming: normal with variance 2 / fan-out (the published code).
    convolution_start: ConvolutionStart = "torch"

    def problems(self) -> list[str]:
        """Labels of at least one position."""
        found = super().problems()
        if self.label_stride > self.size:
            found.append(f"label_stride ({self.label_stride}) is larger than size ({self.size})")
        return found


@dataclass
class PredictSettings(WholeImageSettings):
    """Stage 7: masks for the evaluated splits."""

    # true: a position is foreground where all clusters together are more likely than the background, not where a single one is.
    total_foreground: bool = False
    # Share of the whole image's evidence in the choice among clusters: 0 = every position alone (published).
    image_weight: float = share(0.0)
    # Above this many pixels logits are compared at a reduced size and the map enlarged (0 = never).
    max_pixels: int = at_least(0, 4_000_000)
    shard_size: int = above(0, 8192)


@dataclass
class EvaluateSettings:
    """Stage 8: matching and metrics, where masks exist."""

    matching: Literal["hungarian", "identity"] = "hungarian"
    workers: int = at_least(0, 2, transient=True)


@dataclass
class DistanceMatchingSettings(WholeImageSettings):
    """Protocol distance_matching: nearest neighbours of frozen features in a bank made with the masks of train-semi."""

    # Stride in pixels to which the last feature map is resized: how far apart positions lie.
    target_stride: int = above(0, 8)
    num_neighbours: int = above(0, 10)
    # A neighbour's vote weighs exp(cosine / temperature).
    temperature: float = above(0, 0.07)
    # auto: faiss on a CPU where it is installed, else torch on the run's device.
    engine: Engine = "auto"
    # Images of train-semi after which the bank's vectors are written to disk.
    shard_size: int = above(0, 512, transient=True)


@dataclass
class SemiFinetuneSettings(FinetuneSettings):
    """Protocol semi_supervised: backbone and a 1x1 head trained on the masks of train-semi (1000 ignored), with the published epochs."""

    epochs: int = at_least(0, 30)


@dataclass
class SemiEvaluateSettings:
    """Protocol semi_supervised: metrics, where masks exist; ids are categories already, so nothing is matched."""

    workers: int = at_least(0, 2, transient=True)


@dataclass
class ResourceSettings:
    """What a job asks a cluster for (`luss submit`). Empty = what `resources.default` says, else what fits the stage."""

    # Machines of a trained stage; every other job stays on one, but for a cluster stage that is told so.
    nodes: int | None = at_least(1, None, transient=True)
    # A trained stage runs one process a GPU; shards and single jobs take one GPU at most. 0 = on CPUs.
    gpus_per_node: int | None = at_least(0, None, transient=True)
    # Processes a node where there are no GPUs.
    tasks_per_node: int | None = at_least(1, None, transient=True)
    cpus_per_task: int | None = at_least(1, None, transient=True)
    mem_gb: float | None = at_least(0.1, None, transient=True)
    timeout_min: int | None = at_least(1, None, transient=True)
    # Tasks of a job array that run at the same time, and tasks an array has at most: with more shards, a task makes several.
    array_parallelism: int | None = at_least(1, None, transient=True)
    array_max: int | None = at_least(1, None, transient=True)
    # Seconds before the time limit at which the job is told to write its checkpoint: longer than a step.
    signal_delay_s: int | None = at_least(1, None, transient=True)
    # Shell lines before the job's command, such as `module load cuda`.
    setup: list[str] | None = setting(None, transient=True)
    partition: str | None = transient(None)
    account: str | None = transient(None)
    qos: str | None = transient(None)
    constraint: str | None = transient(None)
