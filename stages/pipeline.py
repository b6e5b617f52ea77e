"""The stages of the pipeline, and which of them each protocol of the benchmark needs."""

from luss.settings import RunSettings
from stages.base import Stage
from stages.cluster import Cluster
from stages.distance_matching import DistanceMatching
from stages.evaluate import Evaluate
from stages.extract_features import ExtractFeatures
from stages.finetune import Finetune
from stages.manifest import ManifestStage
from stages.pixel_attention import PixelAttentionStage
from stages.predict import Predict
from stages.pretrain import Pretrain
from stages.pseudo_labels import PseudoLabelsStage
from stages.semi_evaluate import SemiEvaluate
from stages.semi_finetune import SemiFinetune
from stages.semi_predict import SemiPredict

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
        DistanceMatching(),
        SemiFinetune(),
        SemiPredict(),
        SemiEvaluate(),
    )
}
"""Every stage by name; each comes after those it needs."""

_PRETRAINING = ("manifest", "pretrain")
PROTOCOLS: dict[str, tuple[str, ...]] = {
    "unsupervised": (
        *_PRETRAINING, "pixel_attention", "extract_features", "cluster", "pseudo_labels", "finetune", "predict", "evaluate",
    ),
    "distance_matching": (*_PRETRAINING, "distance_matching"),
    "semi_supervised": (*_PRETRAINING, "semi_finetune", "semi_predict", "semi_evaluate"),
}  # fmt: skip
"""The stages of each protocol, in order."""

ORDER: list[str] = list(PROTOCOLS["unsupervised"])
"""The stages of the fully unsupervised protocol, in order."""


def stages_of(run: RunSettings) -> dict[str, Stage]:
    """The stages of the run's protocols by name, in order; those that protocols share come once."""
    wanted = {name for protocol in run.protocols for name in PROTOCOLS[protocol]}
    return {name: stage for name, stage in STAGES.items() if name in wanted}
