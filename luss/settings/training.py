"""What every trained stage shares: length, batch, optimiser, precision, checkpoints; and the base of a learner's own block."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from luss.settings.fields import above, at_least, interval, one_of, setting, transient
from luss.settings.views import unread_masks

Precision = Literal["auto", "fp32", "bf16", "fp16"]

ConvolutionStart = Literal["torch", "kaiming"]
"""First weights of convolutions behind the backbone: torch's own, or normal with variance 2 / fan-out (the published code)."""


@dataclass
class OptimizerSettings:
    """The optimiser, which of the weights it treats how, and clipping."""

    name: Literal["lars", "sgd", "adamw"] = "lars"
    # Of lars and sgd.
    momentum: float = at_least(0, 0.9)
    nesterov: bool = True
    # Of adamw.
    betas: tuple[float, float] = interval(0, 1, (0.9, 0.999))
    weight_decay: float = at_least(0, 1e-6)
    # Where a cosine takes the weight decay by the end; None = it stays.
    final_weight_decay: float | None = at_least(0, None)
    # false: norms and biases are neither decayed nor, by lars, scaled.
    decay_norms_and_biases: bool = True
    # false: class tokens and tables of positions are not decayed.
    decay_positions: bool = True
    # The rate of each layer of the backbone is this times the rate of the layer behind it.
    layer_decay: float = above(0, 1.0)
    # total: the gradient of all weights is shortened to clip_norm; each: that of every tensor by itself.
    clip: Literal["none", "total", "each"] = "none"
    clip_norm: float = above(0, 1.0)


@dataclass
class TrainSettings:
    """What every trained stage shares: length, batch, optimiser, precision, checkpoints."""

    epochs: int = at_least(0, 20)
    # The global batch: images a step over all processes and accumulated micro-batches.
    batch_size: int = above(0, 256)
    accumulate: int = above(0, 1)
    # Learning rates are given for a global batch of `lr_batch_size` and scaled linearly by the real one.
    lr: float = at_least(0, 0.6)
    final_lr: float = at_least(0, 0.0006)
    lr_batch_size: int = above(0, 256)
    warmup_epochs: float = at_least(0, 0.0)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    # auto: bf16 on a GPU that computes in it, else fp16 with a loss scaler; fp32 on a CPU.
    precision: Precision = "auto"
    sync_batch_norm: bool = True
    channels_last: bool = transient(True)
    compile: bool = transient(False)
    workers: int = at_least(0, 2, transient=True)
    log_every: int = above(0, 10, transient=True)
    checkpoint_minutes: float = above(0, 10.0, transient=True)
    # Also at the end of every n-th epoch.
    checkpoint_epochs: int = above(0, 1, transient=True)

    def problems(self) -> list[str]:
        """The batch divides over its parts."""
        if not self.batch_size % max(1, self.accumulate):
            return []
        return [f"batch_size ({self.batch_size}) must be a multiple of accumulate ({self.accumulate})"]

    @property
    def images_a_pass(self) -> int:
        """Images of one forward pass over all processes."""
        return self.batch_size // max(1, self.accumulate)


@dataclass
class ClusteringSettings:
    """A clustering head: projector, prototypes, codes and the queue (SwAV)."""

    num_prototypes: int = above(0, 500)
    embedding_dim: int = above(0, 128)
    hidden_dim: int = above(0, 512)
    # false: the projector ends without batch norm, as SwAV's own does.
    projector_norm: bool = True
    temperature: float = above(0, 0.1)
    epsilon: float = above(0, 0.05)
    sinkhorn_iterations: int = above(0, 3)
    # Embeddings of past images that join the batch when codes are computed; 0 = none.
    queue_length: int = at_least(0, 2048)
    queue_start_epoch: int = at_least(0, 15)
    freeze_prototypes_steps: int = at_least(0, 1001)
    # During the first steps prototypes are the newest embeddings instead of learned; 0 = random and learned, as published. Random prototypes
    # give codes that say nothing, and short trainings leave that plateau (loss = ln(num_prototypes)) late or never.
    draw_prototypes_steps: int = at_least(0, 0)

    def too_short(self, images: int) -> list[str]:
        """What is wrong with the queue where `images` images pass the network at once."""
        if not 0 < self.queue_length < images:
            return []
        return [
            f"queue_length is {self.queue_length}, less than the {images} images of a forward pass: set it to 0, or to a multiple of them"
        ]


@dataclass
class MethodSettings:
    """What the settings of every learner share; each learner has a class of its own beside it (`luss.methods`)."""

    name: str = setting("pass_s")

    NAMED: ClassVar[bool] = True
    # Whether the learner hides patches from its network: the masks of its groups of views are refused otherwise.
    HIDES: ClassVar[bool] = False
    # Whether the learner reads the images' categories, which every result must then say.
    USES_LABELS: ClassVar[bool] = False

    def problems(self) -> list[str]:
        """What cannot be within this block, as sentences that begin with a key of it."""
        return [] if self.HIDES else unread_masks(self)

    def fits(self, training: TrainSettings) -> list[str]:
        """What does not fit the training it is part of, as sentences that begin with a key of this block."""
        return []


@dataclass
class BackboneSettings:
    """The network: a timm name, an output stride, and where its first weights come from."""

    name: str = "resnet18"
    # Stride of the last feature map; 32 is the network's own, 16 and 8 dilate its last stages. A ViT keeps its own.
    output_stride: int = one_of(32, 8, 16, 32)
    # true: residual branches of random weights start at nothing (their last norm's weight at 0), as timm has it; false: at 1, as in the papers.
    zero_init_residual: bool = False
    # "random", "timm" (the weights published under the name), "timm:resnet50.a1_in1k" (a name of timm's with its tag), or a .safetensors or
    # torch file with the keys of timm or torchvision, as torchvision, SwAV, MoCo, DINO and PASS save them: prefixes and heads are dropped
    # (`pretrain.weights` takes the heads too).
    weights: str = "random"


@dataclass
class PretrainSettings(TrainSettings):
    """Stage 1: representation learning."""

    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    # A whole pretraining to start from, or with epochs=0 to be taken as it is: a run of luss or its pretrain folder, or a checkpoint of PASS
    # or SwAV; backbone, heads and prototypes. Empty = none; `backbone.weights` gives the backbone alone.
    weights: str = ""
    # The learner's own block; `luss.config` puts the learner's class here by its name.
    method: MethodSettings = field(default_factory=MethodSettings)

    def problems(self) -> list[str]:
        """Those of every training, and of the learner in this one; the backbone comes from one place."""
        found = [*super().problems(), *(f"method.{problem}" for problem in self.method.fits(self))]
        if self.weights and self.backbone.weights != "random":
            found.append(
                "weights and backbone.weights are both set: a whole pretraining holds its backbone, leave one out"
            )
        return found
