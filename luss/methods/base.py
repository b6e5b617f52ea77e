"""The contract of a representation learner.

A method owns its backbone, heads, losses and state (queue, momentum teacher: modules and buffers, so `state_dict` saves and
`load_state_dict` restores them). It does not know the loop, the scheduler, or files. To add one, see CONTRIBUTING.md.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from luss.data.views import Views
from luss.methods.health import collapse_warning, plateau_warning
from luss.models.backbone import Backbone
from luss.settings import MethodSettings, ViewSettings
from luss.training.task import Task

if TYPE_CHECKING:
    from luss.methods.clustering import OnlineClustering


@dataclass(frozen=True)
class Given:
    """What a method cannot know by itself.

    Attributes:
        backbone: Makes the network that learns, with its first weights; a new one a call.
        images_a_pass: Images of one forward pass over all processes: the measure of queues.
        base: Makes the trained network that a method starts from (TEC).
        categories: Numbers of the images' categories by their index, (num_images,), -1 for none; only learners that say so may ask
            (`MethodSettings.USES_LABELS`).
    """

    backbone: Callable[[], Backbone]
    images_a_pass: int
    base: Callable[[], Backbone] | None = None
    categories: Callable[[], torch.Tensor] | None = None


class Method(Task):
    """A representation learner: views in, loss out, plain timm weights at the end. Its constructor takes its own settings and `Given`."""

    Settings: ClassVar[type[MethodSettings]]
    settings: Any
    backbone: Backbone

    def __init__(self, settings: MethodSettings, given: Given) -> None:
        """Builds the backbone; a subclass adds its heads."""
        super().__init__()
        self.settings = settings
        self.backbone = given.backbone()

    @property
    def views(self) -> tuple[ViewSettings, ...]:
        """The groups of views that `forward` gets: those of its settings, in their order, but the empty ones."""
        groups = (getattr(self.settings, entry.name) for entry in fields(self.settings))
        return tuple(group for group in groups if isinstance(group, ViewSettings) and group.count)

    def prepare(self, batch: Views, device: torch.device) -> Views:
        """The batch on the device, in its colours, normalised."""
        return batch.prepared(device, self.backbone.normalise)

    def warning(self, lines: Sequence[Mapping[str, float]]) -> str:
        """Signs of collapse, and a clustering loss that stays where it began."""
        head = self.prototypes()
        return collapse_warning(lines) or (plateau_warning(lines, head.settings.num_prototypes) if head else "")

    def exported(self) -> Backbone:
        """The network that has learned: the student, or the teacher where that is published as the better one."""
        return self.backbone

    def prototypes(self) -> "OnlineClustering | None":
        """The clustering head, for the pixel attention; None where there is none: the attention then trains its own."""
        return None
