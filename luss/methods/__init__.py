"""Representation learners by name: names only, a learner's module is imported when it is asked for."""

import difflib
import importlib
from typing import TYPE_CHECKING

from luss.errors import LussError

if TYPE_CHECKING:
    from luss.methods.base import Method

METHODS = {
    "byol": "luss.methods.byol:BYOL",
    "densecl": "luss.methods.densecl:DenseCL",
    "moco_v2": "luss.methods.moco_v2:MoCoV2",
    "pass_p": "luss.methods.pass_p:PassP",
    "pass_s": "luss.methods.pass_s:PassS",
    "pixpro": "luss.methods.pixpro:PixPro",
    "simclr": "luss.methods.simclr:SimCLR",
    "simsiam": "luss.methods.simsiam:SimSiam",
    "supervised": "luss.methods.supervised:Supervised",
    "swav": "luss.methods.swav:SwAV",
}
"""Name -> module and class."""


def method_class(name: str) -> "type[Method]":
    """The learner of a name.

    Raises:
        LussError: There is none; names the nearest.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.4)
        hint = f" did you mean {near[0]}?" if near else ""
        raise LussError(f"pretrain.method is {name!r}:{hint} the methods are {', '.join(sorted(METHODS))}")
    module, _, attribute = METHODS[name].partition(":")
    found: type[Method] = getattr(importlib.import_module(module), attribute)
    return found
