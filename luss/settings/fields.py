"""What a setting may be, said beside its default; one loop over the fields checks them all.

A field whose metadata says `transient` cannot change a result (where or how fast it is computed) and stays out of fingerprints. A block may
have a method `problems`, for values that must fit each other.
"""

import dataclasses
import math
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Rule:
    """What a value may be: a test, and the words for a person who failed it."""

    holds: Callable[[Any], bool]
    allowed: str


def setting(default: Any, rule: Rule | None = None, *, transient: bool = False) -> Any:
    """A field with a default, a rule, or the mark of one that cannot change a result; a list is copied for every block."""
    metadata = {"transient": transient, "rule": rule}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def transient(default: Any) -> Any:
    """A field that cannot change a result."""
    return setting(default, transient=True)


def at_least(low: float, default: Any, *, transient: bool = False) -> Any:
    """A number of `low` or more; None where the field allows it."""
    return setting(default, Rule(lambda value: value is None or value >= low, f"{low:g} or more"), transient=transient)


def above(low: float, default: Any, *, transient: bool = False) -> Any:
    """A number of more than `low`."""
    return setting(default, Rule(lambda value: value > low, f"more than {low:g}"), transient=transient)


def within(low: float, high: float, default: Any, what: str = "") -> Any:
    """A number from `low` to `high`; `what` says of what."""
    return setting(default, Rule(lambda value: low <= value <= high, f"from {low:g} to {high:g}{what}"))


def share(default: float) -> Any:
    """A share or probability, 0 to 1."""
    return within(0, 1, default)


def one_of(default: Any, *values: Any) -> Any:
    """One of some numbers; words are a `Literal`."""
    *most, last = map(str, values)
    return setting(default, Rule(lambda value: value in values, f"{', '.join(most)} or {last}"))


def area(default: tuple[float, float]) -> Any:
    """Smallest and largest share of an image's area."""
    rule = Rule(lambda value: 0 < value[0] <= value[1] <= 1, "two shares of the area, 0 < low <= high <= 1")
    return setting(default, rule)


def interval(low: float, high: float, default: tuple[float, float]) -> Any:
    """Two numbers in order, both from `low` to `high`."""
    allowed = f"two numbers, {low:g} <= low <= high" + (f" <= {high:g}" if math.isfinite(high) else "")
    return setting(default, Rule(lambda value: low <= value[0] <= value[1] <= high, allowed))


def weights(default: list[float]) -> Any:
    """A list of numbers of 0 or more."""
    return setting(default, Rule(lambda value: min(value, default=0) >= 0, "numbers of 0 or more"))


def problems(settings: Any, prefix: str = "") -> Iterator[str]:
    """Everything that is wrong with a block and the blocks in it: values outside of their rule, and values that do not fit each other.

    `prefix` stands before the block's keys, with a dot behind.

    Yields:
        Sentences with the dotted key, the value, and what it may be.
    """
    for entry in dataclasses.fields(settings):
        key, value = f"{prefix}{entry.name}", getattr(settings, entry.name)
        blocks = {key: value} if dataclasses.is_dataclass(value) else {}
        if isinstance(value, dict):
            blocks = {f"{key}.{name}": block for name, block in value.items()}
        for name, block in blocks.items():
            yield from problems(block, f"{name}.")
        if not blocks and value is not None:
            yield from _wrong(key, value, entry.metadata.get("rule"))
    yield from (f"{prefix}{problem}" for problem in getattr(settings, "problems", list)())


def holds_control(text: str) -> bool:
    """Whether there is a control character, such as a line end, which no name needs."""
    return any(unicodedata.category(sign) == "Cc" for sign in text)


def _wrong(key: str, value: Any, rule: Rule | None) -> Iterator[str]:
    texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
    # A newline in a name that goes into a job script would be a command.
    if any(map(holds_control, texts)):
        yield f"{key} is {value!r}: it holds a control character"
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{key} is {value!r}: it must be a finite number"
    elif isinstance(value, list) and any(isinstance(item, (list, dict)) for item in value):
        yield f"{key} is {value!r}: it must be a plain list"
    elif rule is not None and not rule.holds(value):
        yield f"{key} is {value!r}: it must be {rule.allowed}"


def all_keys(settings: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a block, blocks in it included."""
    for entry in dataclasses.fields(settings):
        if entry.metadata.get("omegaconf_ignore"):
            continue
        yield f"{prefix}{entry.name}"
        value = getattr(settings, entry.name)
        if dataclasses.is_dataclass(value):
            yield from all_keys(value, f"{prefix}{entry.name}.")


def changing_settings(settings: Any) -> dict[str, Any]:
    """The settings of a block that differ from their defaults and can change a result, by dotted key.

    Because defaults are left out, a new setting whose default keeps the old behaviour makes no old result stale. A block that has a name,
    such as a learner's, is compared with the defaults of its own kind, and its name is always there.
    """
    return dict(_changing(settings, type(settings)()))


def _changing(settings: Any, default: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for entry in dataclasses.fields(settings):
        if entry.metadata.get("transient"):
            continue
        key, value, usual = f"{prefix}{entry.name}", getattr(settings, entry.name), getattr(default, entry.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            if usual is None:
                yield key, True
            if type(value) is not type(usual):
                usual = type(value)()
            if getattr(value, "NAMED", False):
                yield f"{key}.name", getattr(value, "name", "")
            yield from _changing(value, usual, f"{key}.")
        elif plain(value) != plain(usual):
            yield key, plain(value)


def plain(value: Any) -> Any:
    """Containers as lists, so that a value read back from JSON compares equal."""
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value
