"""Representation learners by name."""

from collections.abc import Callable

from luss.errors import LussError
from luss.methods.base import Method
from luss.methods.pass_s import PassS
from luss.methods.swav import SwAV
from luss.models.backbone import Backbone
from luss.settings import PretrainSettings

METHODS: dict[str, Callable[[Backbone, PretrainSettings], Method]] = {"swav": SwAV, "pass_s": PassS}


def build_method(backbone: Backbone, settings: PretrainSettings) -> Method:
    """The method that `settings.method` names.

    Raises:
        LussError: Unknown name.
    """
    if settings.method not in METHODS:
        raise LussError(f"pretrain.method is {settings.method!r}: choose one of {', '.join(sorted(METHODS))}")
    return METHODS[settings.method](backbone, settings)
