"""The stages as the data flows, read downwards, and the protocols of the benchmark. The only file that knows all stages.

A stage is made of its name, where its settings are, and the stages that it needs. A second round is more lines of the same kind.
"""

from dataclasses import dataclass

from luss.settings import RunSettings
from stages.base import AnyStage, in_order
from stages.cluster import Cluster
from stages.distance_matching import DistanceMatching
from stages.evaluate import Evaluate
from stages.extract_features import ExtractFeatures
from stages.finetune import Finetune
from stages.manifest import ManifestStage
from stages.parts.train_semi import TrainSemi
from stages.pixel_attention import PixelAttentionStage, attention_settings
from stages.predict import Predict
from stages.pretrain import Pretrain
from stages.pseudo_labels import PseudoLabelsStage

MANIFEST = ManifestStage("manifest", lambda run: run.data)
PRETRAIN = Pretrain("pretrain", lambda run: run.pretrain, MANIFEST)
ATTENTION = PixelAttentionStage("pixel_attention", attention_settings, MANIFEST, PRETRAIN)
FEATURES = ExtractFeatures("extract_features", lambda run: run.extract_features, MANIFEST, ATTENTION)
CLUSTERS = Cluster("cluster", lambda run: run.cluster, MANIFEST, FEATURES)
LABELS = PseudoLabelsStage("pseudo_labels", lambda run: run.pseudo_labels, MANIFEST, ATTENTION, CLUSTERS)
FINETUNE = Finetune("finetune", lambda run: run.finetune, MANIFEST, start_from=PRETRAIN, learn_from=LABELS)
MASKS = Predict("predict", lambda run: run.predict, MANIFEST, FINETUNE)
EVALUATE = Evaluate("evaluate", lambda run: run.evaluate, MASKS, protocol="unsupervised")

DISTANCE_MATCHING = DistanceMatching("distance_matching", lambda run: run.distance_matching, MANIFEST, PRETRAIN)

SEMI_FINETUNE = Finetune(
    "semi_finetune", lambda run: run.semi_finetune, MANIFEST, start_from=PRETRAIN, learn_from=TrainSemi()
)
SEMI_MASKS = Predict("semi_predict", lambda run: run.semi_predict, MANIFEST, SEMI_FINETUNE)
SEMI_EVALUATE = Evaluate("semi_evaluate", lambda run: run.semi_evaluate, SEMI_MASKS, protocol="semi_supervised")


@dataclass(frozen=True)
class Protocol:
    """A way to measure a pretrained network.

    Attributes:
        title: What tables call it.
        last: The stage that computes its metrics.
    """

    title: str
    last: AnyStage

    @property
    def stages(self) -> list[AnyStage]:
        """Its stages, in order."""
        return in_order([self.last])


PROTOCOLS: dict[str, Protocol] = {
    "unsupervised": Protocol("unsupervised", EVALUATE),
    "distance_matching": Protocol("distance matching", DISTANCE_MATCHING),
    "semi_supervised": Protocol("semi-supervised", SEMI_EVALUATE),
}
"""By the word that the setting `protocols` has for each."""

STAGES: dict[str, AnyStage] = {
    stage.name: stage for stage in in_order([protocol.last for protocol in PROTOCOLS.values()])
}
"""Every stage by name; each comes after those it needs."""


def stages_of(run: RunSettings) -> dict[str, AnyStage]:
    """The stages of the run's protocols by name, in order; those that protocols share come once."""
    wanted = [stage for name in run.protocols for stage in PROTOCOLS[name].stages]
    return {name: stage for name, stage in STAGES.items() if stage in wanted}
