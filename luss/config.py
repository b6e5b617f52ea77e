"""Reading a run's configuration: a YAML file, then `key.sub=value` words. Mistakes are refused before anything runs.

Also what identifies a computation: the settings that can change its result (`changing_settings`).
"""

import dataclasses
import difflib
import enum
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from luss.errors import LussError
from luss.settings import RunSettings
from luss.validation import validate


def load_config(path: Path | str, words: Sequence[str] = ()) -> RunSettings:
    """Reads and checks a configuration.

    Example:
        >>> import luss
        >>> luss.load_config("configs/demo.yaml", ["pretrain.epochs=1"]).pretrain.epochs
        1

    Args:
        path: YAML file.
        words: Settings such as "pretrain.epochs=10" that win over the file.

    Returns:
        Typed settings; `output` is filled in.

    Raises:
        LussError: Naming the key, where it came from and the nearest valid key; or the value that cannot be.
    """
    path = Path(path)
    return _load(path, _read_yaml(path), words)


def load_stored_config(path: Path) -> RunSettings:
    """Reads the `config.yaml` that a stage has left, of an earlier version of luss too: settings that there are no more are ignored.

    Raises:
        LussError: The file cannot be read, or holds a value that cannot be.
    """
    content, known = _read_yaml(path), set(all_keys(RunSettings()))
    return _load(path, _without_unknown(content, known), ())


def _load(path: Path, content: dict[str, Any], words: Sequence[str]) -> RunSettings:
    merged = _merge(OmegaConf.structured(RunSettings), content, f"file {path}")
    for word in words:
        merged = _merge(merged, _parse_word(word), f"word {word!r}")
    try:
        missing = OmegaConf.missing_keys(merged)
        if missing:
            raise LussError(
                f"{path} does not set {', '.join(sorted(missing))}: add it to the file or as a word key=value"
            )
        settings = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise LussError(f"{path}: {reason} (a variable of the environment is ${{oc.env:NAME}})") from error
    assert isinstance(settings, RunSettings)
    if not settings.output:
        settings.output = f"outputs/{settings.name}"
    validate(settings)
    return settings


def _without_unknown(values: dict[str, Any], known: set[str], prefix: str = "") -> dict[str, Any]:
    return {
        name: _without_unknown(value, known, f"{prefix}{name}.") if isinstance(value, dict) else value
        for name, value in values.items()
        if f"{prefix}{name}" in known
    }


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except FileNotFoundError as error:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")], n=1)
        raise LussError(
            f"the configuration {path} does not exist" + (f": did you mean {path.parent / near[0]}?" if near else "")
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LussError(f"the configuration {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise LussError(f"the configuration {path} must be a mapping of settings, not {type(content).__name__}")
    return content


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, which YAML would silently resolve to the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # "<<" merges another mapping, over which a key of this one may stand.
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=True) for key in own]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _parse_word(word: str) -> dict[str, Any]:
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise LussError(f"{word!r} is not of the form key=value, such as pretrain.epochs=10")
    try:
        parsed: Any = yaml.safe_load(value) if value.strip() else ""
    except yaml.YAMLError as error:
        raise LussError(f"the value of {word!r} cannot be read: {error}") from error
    for part in reversed(key.split(".")):
        parsed = {part: parsed}
    assert isinstance(parsed, dict)
    return parsed


def _merge(schema: DictConfig, values: dict[str, Any], source: str) -> DictConfig:
    known = set(all_keys(RunSettings()))
    for key in _keys_of(values, known):
        if key not in known:
            raise LussError(f"unknown setting {key!r} in {source}{_nearest(key, known)}")
    for key, value in _leaves(values, known):
        try:
            OmegaConf.update(schema, key, value, merge=True)
        except (OmegaConfBaseException, ValueError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise LussError(f"{key} in {source}: {reason}") from error
    return schema


def _nearest(key: str, known: set[str]) -> str:
    near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.5)
    if not near:
        # A right name in the wrong block: compare last parts.
        near = [name for name in sorted(known) if name.split(".")[-1] == key.split(".")[-1]][:1]
    return f": did you mean {near[0]!r}?" if near else ": `luss config FILE` lists every setting"


def _keys_of(values: dict[str, Any], known: set[str], prefix: str = "") -> Iterator[str]:
    """Dotted keys of a nested mapping, parents before children; stops below an unknown key."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        yield key
        if isinstance(value, dict) and key in known:
            yield from _keys_of(value, known, f"{key}.")


def _leaves(values: dict[str, Any], known: set[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _leaves(value, known, f"{key}.")
        # A block whose lines are all commented out is no value: its defaults stay.
        elif value is not None or not any(name.startswith(f"{key}.") for name in known):
            yield key, value


def all_keys(settings: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a settings object, blocks included."""
    for entry in dataclasses.fields(settings):
        key = f"{prefix}{entry.name}"
        yield key
        value = getattr(settings, entry.name)
        if dataclasses.is_dataclass(value):
            yield from all_keys(value, f"{key}.")


def to_yaml(settings: Any) -> str:
    """A settings object as YAML, resolved."""
    return str(OmegaConf.to_yaml(OmegaConf.structured(settings)))


def changing_settings(settings: Any) -> dict[str, Any]:
    """The settings of a block that differ from their defaults and can change a result, by dotted key.

    Because defaults are left out, a new setting whose default keeps the old behaviour makes no old result stale.
    """
    return dict(_changing(settings, type(settings)()))


def _changing(settings: Any, default: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for entry in dataclasses.fields(settings):
        if entry.metadata.get("transient"):
            continue
        value, usual = getattr(settings, entry.name), getattr(default, entry.name)
        if dataclasses.is_dataclass(value):
            yield from _changing(value, usual, f"{prefix}{entry.name}.")
        elif _plain(value) != _plain(usual):
            yield f"{prefix}{entry.name}", _plain(value)


def _plain(value: Any) -> Any:
    """Containers as lists, so that a value read back from JSON compares equal."""
    if isinstance(value, enum.Enum):
        return value.name
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
