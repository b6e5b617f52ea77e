"""SwAV: learning by predicting one view's cluster from another view (Caron et al. 2020)."""

from luss.methods.base import Method, Progress, StepOutput, Views
from luss.methods.forward import backbone_views, pool
from luss.methods.online_clustering import OnlineClustering
from luss.models.backbone import Backbone
from luss.settings import PretrainSettings, ViewSettings


def multi_crop_groups(settings: PretrainSettings) -> tuple[ViewSettings, ...]:
    """The global views and, where there are any, the local ones."""
    return tuple(group for group in (settings.global_views, settings.local_views) if group.count)


class SwAV(Method):
    """Backbone, projector, prototypes; loss: swapped prediction over global and local views."""

    def __init__(self, backbone: Backbone, settings: PretrainSettings) -> None:
        """Builds the heads for a backbone; `settings` is the pretrain block."""
        super().__init__()
        self.backbone = backbone
        self.settings = settings
        self.clustering = OnlineClustering(
            backbone.num_channels, settings.clustering, batch_size=settings.batch_size // settings.accumulate
        )

    @property
    def view_groups(self) -> tuple[ViewSettings, ...]:
        """Two global views and any number of local ones."""
        return multi_crop_groups(self.settings)

    def forward(self, views: Views, progress: Progress) -> StepOutput:
        """Swapped prediction loss; scalars: loss parts and signs of collapse."""
        vectors = [pool(maps[-1]) for maps in backbone_views(self.backbone, views)]
        loss, _, scalars = self.clustering.loss(vectors, progress, num_images=len(views.indices))
        return StepOutput(loss, scalars)

    def after_backward(self, progress: Progress) -> None:
        """Freezes the prototypes during the first steps."""
        self.clustering.drop_frozen_gradient(progress)
