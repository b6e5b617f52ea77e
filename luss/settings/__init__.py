"""Every setting of a run, as typed dataclasses: one block a stage. `luss.config` merges YAML files and command words into them.

Nothing heavy is imported here, so that reading a configuration stays quick. A learner's own block stands beside the learner (`luss.methods`).
"""

# `as` under the same name makes a name part of this module.
from luss.settings.run import DataSettings as DataSettings
from luss.settings.run import RunSettings as RunSettings
from luss.settings.run import ShapesSettings as ShapesSettings
from luss.settings.stages import ClusterSettings as ClusterSettings
from luss.settings.stages import DistanceMatchingSettings as DistanceMatchingSettings
from luss.settings.stages import EvaluateSettings as EvaluateSettings
from luss.settings.stages import ExtractFeaturesSettings as ExtractFeaturesSettings
from luss.settings.stages import FinetuneSettings as FinetuneSettings
from luss.settings.stages import PixelAttentionSettings as PixelAttentionSettings
from luss.settings.stages import PredictSettings as PredictSettings
from luss.settings.stages import PseudoLabelsSettings as PseudoLabelsSettings
from luss.settings.stages import ResourceSettings as ResourceSettings
from luss.settings.stages import SaliencySettings as SaliencySettings
from luss.settings.stages import SemiEvaluateSettings as SemiEvaluateSettings
from luss.settings.stages import SemiFinetuneSettings as SemiFinetuneSettings
from luss.settings.stages import WholeImageSettings as WholeImageSettings
from luss.settings.training import BackboneSettings as BackboneSettings
from luss.settings.training import ClusteringSettings as ClusteringSettings
from luss.settings.training import ConvolutionStart as ConvolutionStart
from luss.settings.training import MethodSettings as MethodSettings
from luss.settings.training import OptimizerSettings as OptimizerSettings
from luss.settings.training import PretrainSettings as PretrainSettings
from luss.settings.training import TrainSettings as TrainSettings
from luss.settings.views import ColourSettings as ColourSettings
from luss.settings.views import MaskSettings as MaskSettings
from luss.settings.views import ViewSettings as ViewSettings
from luss.settings.views import no_colours as no_colours
