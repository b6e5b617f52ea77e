"""Every setting of a run, as typed dataclasses: one block a stage. `luss.config` merges YAML files and command words into them.

A field whose metadata says `transient` cannot change a result (where or how fast it is computed) and stays out of fingerprints.
This module imports nothing heavy, so that reading a configuration stays instant.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


def transient(default: Any) -> Any:
    """A field with a default that cannot change a result."""
    return field(default=default, metadata={"transient": True})


@dataclass
class ShapesSettings:
    """The embedded data set, drawn when `data.root` is `shapes`."""

    folder: str = field(default="outputs/shapes", metadata={"transient": True})
    num_train: int = 1600
    num_validation: int = 200
    size: int = 96
    difficulty: float = 0.5
    seed: int = 0


@dataclass
class DataSettings:
    """Where the images are. `root` is a folder of images, an ImageNet-S layout, or the word `shapes`."""

    root: str = MISSING
    # Folders under root. A root without a `train` folder is itself the training set.
    train: str = "train"
    # More folders that only the representation is learned from.
    extra: list[str] = field(default_factory=list)
    # Splits to predict and, where masks exist, evaluate; those that are absent are left out.
    evaluate: list[str] = field(default_factory=lambda: ["validation"])
    max_pixels: int = 300_000_000
    # A stage fails when more than this share of its images cannot be read.
    max_skipped_share: float = 0.01
    # "header" reads sizes only (fast); "full" decodes every image once, so that truncated files are found at the start.
    verify: str = "header"
    workers: int = transient(2)
    shapes: ShapesSettings = field(default_factory=ShapesSettings)


@dataclass
class ViewSettings:
    """One group of crops of an image: how many, their side in pixels, and the share of the image's area that they cover."""

    count: int = 2
    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    # false: neither mirrored nor recoloured.
    augment: bool = True


@dataclass
class PhotometricSettings:
    """Colour augmentation, per view (SwAV's recipe): strengths and probabilities."""

    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    jitter_probability: float = 0.8
    grey_probability: float = 0.2
    blur_probability: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)


@dataclass
class TrainSettings:
    """What every trained stage shares: length, batch, optimiser, precision, checkpoints."""

    epochs: int = 20
    # The global batch: images a step over all processes and accumulated micro-batches.
    batch_size: int = 256
    accumulate: int = 1
    # Learning rates are given for a global batch of `lr_batch_size` and scaled linearly by the real one.
    lr: float = 0.6
    final_lr: float = 0.0006
    lr_batch_size: int = 256
    warmup_epochs: float = 0.0
    optimizer: str = "lars"
    momentum: float = 0.9
    weight_decay: float = 1e-6
    clip_grad: float = 0.0
    # auto: bf16 on a GPU that computes in it, else fp16 with a loss scaler; fp32 on a CPU.
    precision: str = "auto"
    sync_batch_norm: bool = True
    channels_last: bool = transient(True)
    compile: bool = transient(False)
    workers: int = transient(2)
    log_every: int = transient(10)
    checkpoint_minutes: float = transient(10.0)
    # Also at the end of every n-th epoch.
    checkpoint_epochs: int = transient(1)


@dataclass
class BackboneSettings:
    """The network: a timm name, an output stride, and where its first weights come from."""

    name: str = "resnet18"
    # Stride of the last feature map; 32 is the network's own, 16 and 8 dilate its last stages.
    output_stride: int = 32
    # true: residual branches of random weights start at nothing (their last norm's weight at 0), as timm has it; false: at 1, as in the papers.
    zero_init_residual: bool = False
    # "random", "timm" (the weights published under the name), "timm:resnet50.a1_in1k" (a name of timm's with its tag), or a .safetensors or
    # torch file with the keys of timm or torchvision, as torchvision, SwAV, MoCo, DINO and PASS save them: prefixes and heads are dropped.
    weights: str = "random"


@dataclass
class ClusteringSettings:
    """The clustering loss of SwAV, which PASS_s builds on."""

    num_prototypes: int = 500
    embedding_dim: int = 128
    hidden_dim: int = 512
    temperature: float = 0.1
    epsilon: float = 0.05
    sinkhorn_iterations: int = 3
    # Embeddings of past images that join the batch when codes are computed; 0 = none.
    queue_length: int = 2048
    queue_start_epoch: int = 15
    freeze_prototypes_steps: int = 1001
    # During the first steps prototypes are the newest embeddings instead of learned; 0 = random and learned, as published. Random prototypes
    # give codes that say nothing, and short trainings leave that plateau (loss = ln(num_prototypes)) late or never.
    draw_prototypes_steps: int = 0


@dataclass
class PassSSettings:
    """Method `pass_s`: SwAV + pixel-to-pixel alignment (P2P) + deep-to-shallow supervision (D2S)."""

    # Weights of the deep clustering loss and of each shallow stage; the sum is divided by the total weight.
    deep_weight: float = 1.0
    shallow_stages: list[int] = field(default_factory=lambda: [3])
    shallow_weights: list[float] = field(default_factory=lambda: [1.0])
    pixel_alignment_weight: float = 1.0
    # Points a side sampled in the common region of two global views; 0 = the side of the last feature map.
    grid_size: int = 7
    # true: sample and average exactly as the published code does, its border and no-overlap quirks included.
    published: bool = False


@dataclass
class PretrainSettings(TrainSettings):
    """Stage 1: representation learning."""

    method: str = "pass_s"
    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    global_views: ViewSettings = field(default_factory=lambda: ViewSettings(2, 224, (0.14, 1.0)))
    local_views: ViewSettings = field(default_factory=lambda: ViewSettings(6, 96, (0.05, 0.14)))
    photometric: PhotometricSettings = field(default_factory=PhotometricSettings)
    clustering: ClusteringSettings = field(default_factory=ClusteringSettings)
    pass_s: PassSSettings = field(default_factory=PassSSettings)


@dataclass
class SaliencySettings:
    """A label-free teacher for the attention: pixels that differ from the image's border (see `luss.models.saliency`)."""

    # 0 = off, as published: the attention then learns from the clustering loss alone.
    weight: float = 0.0
    # Weight of the distance from the centre in the teacher.
    centre: float = 0.5


@dataclass
class PixelAttentionSettings(TrainSettings):
    """Stage 2: per-channel attention over frozen features (equation 5.6)."""

    views: ViewSettings = field(default_factory=lambda: ViewSettings(2, 224, (0.08, 1.0)))
    photometric: PhotometricSettings = field(default_factory=PhotometricSettings)
    # One attention map for all channels instead of one a channel.
    shared: bool = False
    # Factor by which the last feature map is upsampled before attention, clustering and labelling.
    upsample: int = 4
    queue_length: int = 3840
    queue_start_epoch: int = 0
    train_prototypes: bool = False
    saliency: SaliencySettings = field(default_factory=SaliencySettings)
    # true: as the published code (prototypes train too, batch-norm statistics of the frozen network drift).
    published: bool = False


@dataclass
class ExtractFeaturesSettings:
    """Stage 3: one attention-pooled vector an image."""

    resize: int = 256
    crop: int = 224
    dtype: str = "float32"
    shard_size: int = 16384
    # What the layout descriptors beside the pooled vectors are made of: 1 to 4 = the backbone's stages, 0 = the image's own oriented
    # gradients. None = no descriptors, as published.
    layout_stages: list[int] = field(default_factory=list)
    # Cells a side of that layout.
    layout_grid: int = 4
    # true: the descriptors are the mean over the image and its mirror image.
    layout_mirror: bool = False
    # true: pools the unnormalised features as the published code does, not those that the attention was trained on.
    published: bool = False
    batch_size: int = transient(64)
    workers: int = transient(2)
    precision: str = "fp32"


@dataclass
class ClusterSettings:
    """Stage 4: k-means over the feature vectors."""

    num_clusters: int = 50
    # Components of the layout descriptors that are clustered in place of the pooled vectors; 0 = the pooled vectors, as published.
    layout_dim: int = 0
    # Weight of each of extract_features.layout_stages in them.
    layout_weights: list[float] = field(default_factory=list)
    # Power of the whitening of those components, 0 to 1.
    whitening: float = 0.5
    engine: str = "auto"
    metric: str = "cosine"
    num_iterations: int = 20
    num_restarts: int = 30
    chunk_size: int = transient(65536)


@dataclass
class WholeImageSettings:
    """A pass over whole images: their size, and how they share batches."""

    short_side: int = 256
    # The long side is rounded to a multiple of this, so that images share batches; 1 = keep the aspect exactly.
    size_multiple: int = 1
    max_aspect: float = 8.0
    batch_size: int = transient(16)
    workers: int = transient(2)
    precision: str = "fp32"


@dataclass
class PseudoLabelsSettings(WholeImageSettings):
    """Stage 5: a label map an image."""

    size_multiple: int = 16
    # "auto" (from the attention alone), "validation" (searched with ground truth: reports say so) or a number in [0, 1].
    threshold: str = "auto"
    threshold_method: str = "otsu"
    # Share of the image's own cluster in each position's score: 0 = every position alone (published), 1 = one cluster an image. The rest of
    # the score is the position's cosine.
    image_weight: float = 0.0
    # Share of the border saliency in the attention that is stored and thresholded: 0 = the learned attention alone (published).
    saliency: float = 0.0
    shard_size: int = 8192
    batch_size: int = transient(32)


@dataclass
class FinetuneSettings(TrainSettings):
    """Stage 6: backbone and a 1x1 head trained on the pseudo labels."""

    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    photometric: PhotometricSettings = field(
        default_factory=lambda: PhotometricSettings(jitter_probability=0.0, grey_probability=0.0, blur_probability=0.0)
    )
    # Stride of the fine-tuned network's last feature map (0 = as pretrained).
    output_stride: int = 0
    # Labels and logits meet at size / this.
    label_stride: int = 2


@dataclass
class PredictSettings(WholeImageSettings):
    """Stage 7: masks for the evaluated splits."""

    # true: a position is foreground where all clusters together are more likely than the background, not where a single one is.
    total_foreground: bool = False
    # Share of the whole image's evidence in the choice among clusters: 0 = every position alone (published).
    image_weight: float = 0.0
    # Above this many pixels logits are compared at a reduced size and the map enlarged (0 = never).
    max_pixels: int = 4_000_000
    shard_size: int = 8192


@dataclass
class EvaluateSettings:
    """Stage 8: matching and metrics, where masks exist."""

    matching: str = "hungarian"
    workers: int = transient(2)


@dataclass
class DistanceMatchingSettings(WholeImageSettings):
    """Protocol distance_matching: nearest neighbours of frozen features in a bank made with the masks of train-semi."""

    # Factor by which the last feature map is upsampled: positions lie backbone stride / upsample pixels apart.
    upsample: int = 4
    num_neighbours: int = 10
    # A neighbour's vote weighs exp(cosine / temperature).
    temperature: float = 0.07
    # auto: faiss on a CPU where it is installed, else torch on the run's device.
    engine: str = "auto"
    # Images of train-semi after which the bank's vectors are written to disk.
    shard_size: int = transient(512)


@dataclass
class SemiFinetuneSettings(FinetuneSettings):
    """Protocol semi_supervised: backbone and a 1x1 head trained on the masks of train-semi (1000 ignored), with the published epochs."""

    epochs: int = 30


@dataclass
class SemiPredictSettings(PredictSettings):
    """Protocol semi_supervised: masks for the evaluated splits, by the network of semi_finetune."""


@dataclass
class SemiEvaluateSettings:
    """Protocol semi_supervised: metrics, where masks exist; ids are categories already, so nothing is matched."""

    workers: int = transient(2)


@dataclass
class ResourceSettings:
    """What a job asks a cluster for (`luss submit`). Empty = what `resources.default` says, else what fits the stage."""

    # Machines of a trained stage; every other job stays on one, but for a cluster stage that is told so.
    nodes: int | None = transient(None)
    # A trained stage runs one process a GPU; shards and single jobs take one GPU at most. 0 = on CPUs.
    gpus_per_node: int | None = transient(None)
    # Processes a node where there are no GPUs.
    tasks_per_node: int | None = transient(None)
    cpus_per_task: int | None = transient(None)
    mem_gb: float | None = transient(None)
    timeout_min: int | None = transient(None)
    # Tasks of a job array that run at the same time, and tasks an array has at most: with more shards, a task makes several.
    array_parallelism: int | None = transient(None)
    array_max: int | None = transient(None)
    # Seconds before the time limit at which the job is told to write its checkpoint: longer than a step.
    signal_delay_s: int | None = transient(None)
    # Shell lines before the job's command, such as `module load cuda`.
    setup: list[str] | None = field(default=None, metadata={"transient": True})
    partition: str | None = transient(None)
    account: str | None = transient(None)
    qos: str | None = transient(None)
    constraint: str | None = transient(None)


@dataclass
class ResourcesSettings:
    """Resources of every stage's job."""

    default: ResourceSettings = field(default_factory=ResourceSettings)
    pretrain: ResourceSettings = field(default_factory=ResourceSettings)
    pixel_attention: ResourceSettings = field(default_factory=ResourceSettings)
    extract_features: ResourceSettings = field(default_factory=ResourceSettings)
    cluster: ResourceSettings = field(default_factory=ResourceSettings)
    pseudo_labels: ResourceSettings = field(default_factory=ResourceSettings)
    finetune: ResourceSettings = field(default_factory=ResourceSettings)
    predict: ResourceSettings = field(default_factory=ResourceSettings)
    evaluate: ResourceSettings = field(default_factory=ResourceSettings)
    distance_matching: ResourceSettings = field(default_factory=ResourceSettings)
    semi_finetune: ResourceSettings = field(default_factory=ResourceSettings)
    semi_predict: ResourceSettings = field(default_factory=ResourceSettings)
    semi_evaluate: ResourceSettings = field(default_factory=ResourceSettings)


@dataclass
class RunSettings:
    """A whole run."""

    name: str = MISSING
    # The run's folder; empty = outputs/<name>.
    output: str = field(default="", metadata={"transient": True})
    seed: int = 0
    # What `luss run` does and `luss status` shows: unsupervised, distance_matching, semi_supervised, or several of them; all of them
    # start from the same pretraining.
    protocols: list[str] = field(default_factory=lambda: ["unsupervised"], metadata={"transient": True})
    # auto = cuda where there is one, else cpu.
    device: str = transient("auto")
    # Minutes that a process waits for the others of its stage before it fails and names the one that is missing.
    peer_timeout_min: float = transient(30.0)
    data: DataSettings = field(default_factory=DataSettings)
    pretrain: PretrainSettings = field(default_factory=PretrainSettings)
    pixel_attention: PixelAttentionSettings = field(default_factory=PixelAttentionSettings)
    extract_features: ExtractFeaturesSettings = field(default_factory=ExtractFeaturesSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    pseudo_labels: PseudoLabelsSettings = field(default_factory=PseudoLabelsSettings)
    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)
    predict: PredictSettings = field(default_factory=PredictSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    distance_matching: DistanceMatchingSettings = field(default_factory=DistanceMatchingSettings)
    semi_finetune: SemiFinetuneSettings = field(default_factory=SemiFinetuneSettings)
    semi_predict: SemiPredictSettings = field(default_factory=SemiPredictSettings)
    semi_evaluate: SemiEvaluateSettings = field(default_factory=SemiEvaluateSettings)
    resources: ResourcesSettings = field(default_factory=ResourcesSettings, metadata={"transient": True})
