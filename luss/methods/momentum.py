"""A momentum teacher: the exponential moving average of a student's weights."""

import copy
from typing import Any

import torch
from torch import nn


class Teacher(nn.Module):
    """A frozen copy of a module that follows it. Call it like the module.

    Buffers (batch-norm statistics) are its own: it sees its own batches.
    """

    def __init__(self, student: nn.Module) -> None:
        """Copies the student as it is now."""
        super().__init__()
        self.module = copy.deepcopy(student)
        for parameter in self.module.parameters():
            parameter.requires_grad_(False)

    @torch.no_grad()
    def forward(self, *inputs: Any, **words: Any) -> Any:
        """The copy's output, without gradient."""
        return self.module(*inputs, **words)

    @torch.no_grad()
    def follow(self, student: nn.Module, momentum: float) -> None:
        """teacher = momentum * teacher + (1 - momentum) * student, for every weight, by name.

        Weights that only one of the two has stay as they are.
        """
        own = dict(self.module.named_parameters())
        pairs = [(own[name], weight.detach()) for name, weight in student.named_parameters() if name in own]
        torch._foreach_lerp_([pair[0] for pair in pairs], [pair[1] for pair in pairs], 1 - momentum)
