"""The stages of the pipeline, in order."""

from stages.base import Stage
from stages.cluster import Cluster
from stages.evaluate import Evaluate
from stages.extract_features import ExtractFeatures
from stages.finetune import Finetune
from stages.manifest import ManifestStage
from stages.pixel_attention import PixelAttentionStage
from stages.predict import Predict
from stages.pretrain import Pretrain
from stages.pseudo_labels import PseudoLabelsStage

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        ManifestStage(),
        Pretrain(),
        PixelAttentionStage(),
        ExtractFeatures(),
        Cluster(),
        PseudoLabelsStage(),
        Finetune(),
        Predict(),
        Evaluate(),
    )
}
ORDER: list[str] = list(STAGES)
