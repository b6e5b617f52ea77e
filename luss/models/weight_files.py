"""Files of weights that others wrote: tensors by name, out of whatever they wrapped them in. Nothing is unpickled."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from luss.errors import LussError

# Dictionaries that hold the tensors, in the order in which they are looked into.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "teacher", "student", "backbone", "encoder")
# Takes the tensors out of a file that holds objects: of a whole module, and of dictionaries of modules, tensors and anything else. No square
# brackets: screens take those for markup.
_TAKE_OUT = (
    "import torch; f = lambda c: {{k: v if torch.is_tensor(v) else f(v) for k, v in (c if isinstance(c, dict) else c.state_dict()).items() "
    "if torch.is_tensor(v) or isinstance(v, (dict, torch.nn.Module))}}; "
    "torch.save(f(torch.load({path!r}, map_location='cpu', weights_only=False)), 'tensors.pth')"
)
_MARK_PLACES, _MARK_BYTES = 64, 1 << 16


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads tensors from a .safetensors file or a torch checkpoint, without unpickling code.

    Raises:
        LussError: The file is absent, damaged, or holds more than tensors and plain containers.
    """
    if path.is_dir():
        raise LussError(f"{path} is a folder: give a file of weights; pretrain.weights takes a whole run")
    if not path.is_file():
        raise LussError(f"the weights file {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise LussError(f"{path} cannot be read as weights {_reason(path, error)}") from error
    while isinstance(value, dict) and (inner := next((k for k in _WRAPPERS if isinstance(value.get(k), dict)), "")):
        value = value[inner]
    tensors = {str(k): v for k, v in value.items() if isinstance(v, Tensor)} if isinstance(value, dict) else {}
    if not tensors:
        raise LussError(f"{path} holds no tensors by name")
    return tensors


def content_mark(paths: Sequence[Path]) -> str:
    """What tells the contents of files from other contents, at the cost of some MB however large they are.

    It is made of their sizes and of 64 KiB at 64 places each: other weights differ nearly everywhere.

    Returns:
        32 hexadecimal digits; empty where a file is not there.
    """
    found = hashlib.blake2b(digest_size=16)
    try:
        for path in paths:
            size = path.stat().st_size
            found.update(str(size).encode())
            with open(path, "rb") as file:
                for place in range(_MARK_PLACES):
                    file.seek(max(0, size - _MARK_BYTES) * place // (_MARK_PLACES - 1))
                    found.update(file.read(_MARK_BYTES))
    except OSError:
        return ""
    return found.hexdigest()


def _reason(path: Path, error: Exception) -> str:
    """Why a file cannot be read; for one with objects, such as the arguments of a training script, how to get the tensors out."""
    text = str(error) or type(error).__name__
    if "Weights only load failed" not in text:
        return f"({text.splitlines()[0]})"
    found: Any = re.search(r"GLOBAL (\S+)", text)
    return (
        f"without running code from it: beside tensors it holds {found[1] if found else 'other objects'}. If you trust its source, take the "
        f"tensors out once, in Python: {_TAKE_OUT.format(path=str(path))}"
    )
