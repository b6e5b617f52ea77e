"""A whole run."""

import dataclasses
import difflib
from dataclasses import dataclass, field
from typing import Literal, get_args

from omegaconf import MISSING

from luss.settings.fields import above, at_least, setting, share, transient
from luss.settings.stages import (
    ClusterSettings,
    DistanceMatchingSettings,
    EvaluateSettings,
    ExtractFeaturesSettings,
    FinetuneSettings,
    PixelAttentionSettings,
    PredictSettings,
    PseudoLabelsSettings,
    ResourceSettings,
    SemiEvaluateSettings,
    SemiFinetuneSettings,
)
from luss.settings.training import PretrainSettings

MAX_PIXELS = 200_000_000
"""Width x height of the largest image that is read: the largest cameras of phones. Every process that reads it takes 8 bytes a pixel meanwhile,
1.6 GB; 13 with transparency, 16-bit or turned by EXIF, 2.6 GB."""

Protocol = Literal["unsupervised", "distance_matching", "semi_supervised"]
"""The protocols of the benchmark."""


@dataclass
class ShapesSettings:
    """The embedded data set, drawn when `data.root` is `shapes`."""

    folder: str = transient("outputs/shapes")
    num_train: int = above(0, 1600)
    num_validation: int = above(0, 200)
    size: int = above(0, 96)
    difficulty: float = share(0.5)
    seed: int = at_least(0, 0)


@dataclass
class DataSettings:
    """Where the images are. `root` is a folder of images, an ImageNet-S layout, or the word `shapes`."""

    root: str = MISSING
    # Folders under root. A root without a `train` folder is itself the training set.
    train: str = "train"
    # More folders that only the representation is learned from; one of a file's that the data lacks is left out.
    extra: list[str] = field(default_factory=list)
    # Splits to predict and, where masks exist, evaluate; those that are absent are left out.
    evaluate: list[str] = field(default_factory=lambda: ["validation"])
    # Larger images are skipped, and listed in skipped.csv. Every process that reads, loader workers too, takes 8 bytes a pixel of the largest image,
    # 13 where it is transparent or turned by EXIF: 200 million pixels are 1.6 to 2.6 GB.
    max_pixels: int = above(0, MAX_PIXELS)
    # A stage fails when more than this share of its images cannot be read.
    max_skipped_share: float = share(0.01)
    # "header" reads sizes only (fast); "full" decodes every image once, so that truncated files are found at the start.
    verify: Literal["header", "full"] = "header"
    workers: int = at_least(0, 2, transient=True)
    shapes: ShapesSettings = field(default_factory=ShapesSettings)


@dataclass
class RunSettings:
    """A whole run."""

    name: str = MISSING
    # The run's folder; empty = outputs/<name>.
    output: str = transient("")
    seed: int = at_least(0, 0)
    # What `luss run` does and `luss status` shows: unsupervised, distance_matching, semi_supervised, or several of them; all of them
    # start from the same pretraining.
    protocols: list[Protocol] = setting(["unsupervised"], transient=True)
    # auto = cuda where there is one, else cpu.
    device: str = transient("auto")
    # Minutes that a process waits for the others of its stage before it fails and names the one that is missing.
    peer_timeout_min: float = above(0, 30.0, transient=True)
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
    semi_predict: PredictSettings = field(default_factory=PredictSettings)
    semi_evaluate: SemiEvaluateSettings = field(default_factory=SemiEvaluateSettings)
    # What jobs ask a cluster for, by stage; `default` holds for every stage.
    resources: dict[str, ResourceSettings] = field(default_factory=dict, metadata={"transient": True})
    # No setting: the dotted keys of what was typed as words, which is never fitted to the data (`stages.running.fitting`).
    typed: frozenset[str] = field(default=frozenset(), compare=False, repr=False, metadata={"omegaconf_ignore": True})

    def problems(self) -> list[str]:
        """What concerns several blocks."""
        found = [] if self.name else ["name is empty: a run needs one"]
        if not self.protocols:
            found.append(f"protocols is empty: name one or more of {', '.join(get_args(Protocol))}")
        layout, stages = self.cluster, self.extract_features.layout_stages
        if layout.layout_dim and not stages:
            found.append(
                "cluster.layout_dim clusters layout descriptors: name their stages in extract_features.layout_stages, such as [0, 4]"
            )
        if layout.layout_dim and len(layout.layout_weights) != len(stages):
            found.append(
                f"cluster.layout_weights has {len(layout.layout_weights)} entries for {len(stages)} stages in "
                "extract_features.layout_stages: give one weight a stage"
            )
        blocks = [each.name for each in dataclasses.fields(self) if dataclasses.is_dataclass(getattr(self, each.name))]
        names = ["default", "manifest", *(name for name in blocks if name != "data")]
        for name in self.resources:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
                found.append(
                    f"resources names {name!r}, which is no stage"
                    + (f": did you mean {near[0]!r}?" if near else f": the stages are {', '.join(names[1:])}")
                )
        return found
