"""The network of stages 1 and 2, as later stages use it."""

from luss.models.attended import AttendedBackbone, load_attended
from luss.settings import PixelAttentionSettings
from stages.base import AnyStage, Stage, StageContext


def attended(context: StageContext, start_from: AnyStage, attention: Stage[PixelAttentionSettings]) -> AttendedBackbone:
    """The frozen network and the attention over it, on the run's device.

    Args:
        context: Of the stage that uses them.
        start_from: Has left the backbone that the attention was learned over.
        attention: Has learned the attention.
    """
    settings = attention.block(context.run)
    network = load_attended(
        context.of(start_from), context.of(attention), shared=settings.shared, target_stride=settings.target_stride
    )
    return network.to(context.device)
