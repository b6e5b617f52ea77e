"""Where to compute, from the word a person writes."""

import torch

from luss.errors import LussError


def resolve_device(name: str) -> torch.device:
    """The device that a setting names; "auto" is CUDA where there is one.

    Raises:
        LussError: No such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise LussError(f"device is {name!r}, which this machine does not have: use auto or cpu") from error
    return device
