"""Every setting of a run, as typed dataclasses: one block a stage. `luss.config` merges YAML files and command words into them.

Nothing heavy is imported here, so that reading a configuration stays quick. A learner's own block stands beside the learner (`luss.methods`).
"""

from luss.settings.run import DataSettings, RunSettings, ShapesSettings
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
    SaliencySettings,
    SemiEvaluateSettings,
    SemiFinetuneSettings,
    WholeImageSettings,
)
from luss.settings.training import (
    BackboneSettings,
    ClusteringSettings,
    MethodSettings,
    OptimizerSettings,
    PretrainSettings,
    TrainSettings,
)
from luss.settings.views import ColourSettings, MaskSettings, ViewSettings, no_colours

__all__ = [
    "BackboneSettings",
    "ClusterSettings",
    "ClusteringSettings",
    "ColourSettings",
    "DataSettings",
    "DistanceMatchingSettings",
    "EvaluateSettings",
    "ExtractFeaturesSettings",
    "FinetuneSettings",
    "MaskSettings",
    "MethodSettings",
    "OptimizerSettings",
    "PixelAttentionSettings",
    "PredictSettings",
    "PretrainSettings",
    "PseudoLabelsSettings",
    "ResourceSettings",
    "RunSettings",
    "SaliencySettings",
    "SemiEvaluateSettings",
    "SemiFinetuneSettings",
    "ShapesSettings",
    "TrainSettings",
    "ViewSettings",
    "WholeImageSettings",
    "no_colours",
]
