"""Reading a run's configuration: YAML files laid over each other, then `key.sub=value` words. Mistakes are refused before anything runs."""

import contextlib
import copy
import dataclasses
import difflib
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from luss.errors import LussError
from luss.methods import method_class
from luss.settings import MethodSettings, RunSettings
from luss.settings.fields import all_keys, problems

_SUFFIXES = (".yaml", ".yml")
_TEXT = (str, str | None)


def load_config(path: Path | str, words: Sequence[str] = ()) -> RunSettings:
    """Reads and checks a configuration.

    Example:
        >>> import luss
        >>> luss.load_config("configs/demo.yaml", ["pretrain.epochs=1"]).pretrain.epochs
        1

    Args:
        path: YAML file.
        words: Laid over it in order: settings such as "pretrain.epochs=10", or more YAML files. A block that has a name may be given by
            it alone ("pretrain.method=swav"); one that names another learner begins with that learner's defaults.

    Returns:
        Typed settings; `output` is filled in.

    Raises:
        LussError: Naming the key, where it came from and the nearest valid key; or the value that cannot be.
    """
    merged, wrong = _lay(_schema(), _read_yaml(Path(path)), f"file {path}"), []
    for word in words:
        if "=" not in word and word.endswith(_SUFFIXES):
            merged = _lay(merged, _read_yaml(Path(word)), f"file {word}")
            continue
        try:
            merged = _lay(merged, _parse_word(word, merged), f"word {word!r}", key=word.partition("=")[0])
        except LussError as error:
            wrong.append(str(error))
    return _finished(merged, str(path), wrong)


def setting_type(key: str, path: Path | str, words: Sequence[str] = ()) -> Any:
    """The declared type of a setting where `words` are laid over a file, as `load_config` does; None where there is no such setting.

    Words that cannot be are passed over: `load_config` tells them.

    Example:
        >>> from luss.config import setting_type
        >>> setting_type("cluster.num_clusters", "configs/demo.yaml")
        <class 'int'>

    Raises:
        LussError: A file cannot be read.
    """
    merged = _lay(_schema(), _read_yaml(Path(path)), f"file {path}")
    for word in words:
        if "=" not in word and word.endswith(_SUFFIXES):
            merged = _lay(merged, _read_yaml(Path(word)), f"file {word}")
            continue
        with contextlib.suppress(LussError):
            merged = _lay(merged, _parse_word(word, merged), f"word {word!r}")
    return _type_of(merged, key)


def is_text(kind: Any) -> bool:
    """Whether a setting of a declared type takes a word as the text that it is."""
    return kind in _TEXT


def load_stored_config(path: Path) -> RunSettings:
    """Reads the `config.yaml` that a stage has left, of an earlier version of luss too: settings that there are no more are ignored.

    Raises:
        LussError: The file cannot be read, or holds a value that cannot be.
    """
    return _finished(_lay(_schema(), _read_yaml(path), f"file {path}", ignore_unknown=True), str(path), [])


def to_yaml(settings: Any) -> str:
    """A settings object as YAML, resolved."""
    return str(OmegaConf.to_yaml(OmegaConf.structured(settings)))


def _schema() -> DictConfig:
    """All settings at their defaults; layers are laid into it, which a copy at every layer would take most of the time of."""
    return copy.deepcopy(_defaults(RunSettings))


@functools.cache
def _defaults(settings: type[RunSettings]) -> DictConfig:
    schema: DictConfig = OmegaConf.structured(settings)
    schema.pretrain.method = method_class(MethodSettings().name).Settings()
    return schema


def _finished(merged: DictConfig, source: str, wrong: list[str]) -> RunSettings:
    """The settings; everything that is wrong, also what was found before, is said at once."""
    try:
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            lacking = f"{source} does not set {', '.join(missing)}: add it to the file or as a word key=value"
            raise LussError("\n".join([*wrong, lacking]))
        settings = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise LussError(f"{source}: {reason} (a variable of the environment is ${{oc.env:NAME}})") from error
    assert isinstance(settings, RunSettings)
    for block, name in ((settings, "output"), (settings.data, "root"), (settings.data.shapes, "folder")):
        setattr(block, name, os.path.expanduser(getattr(block, name)))
    settings.pretrain.backbone.weights = os.path.expanduser(settings.pretrain.backbone.weights)
    if not settings.output:
        settings.output = f"outputs/{settings.name}"
    wrong = [*wrong, *problems(settings)]
    if wrong:
        raise LussError("\n".join(wrong))
    return settings


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except FileNotFoundError as error:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")], n=1)
        raise LussError(
            f"the configuration {path} does not exist" + (f": did you mean {path.parent / near[0]}?" if near else "")
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise LussError(f"the configuration {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise LussError(f"the configuration {path} must be a mapping of settings, not {type(content).__name__}")
    return {str(key): value for key, value in content.items()}


def _parse_word(word: str, known: DictConfig) -> dict[str, Any]:
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise LussError(f"{word!r} is not of the form key=value, such as pretrain.epochs=10")
    try:
        # YAML would make a number of 2023_05 and a truth of on; a text is what was typed.
        parsed: Any = value if is_text(_type_of(known, key)) or not value.strip() else yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise LussError(f"the value of {word!r} cannot be read: {error}") from error
    for part in reversed(key.split(".")):
        parsed = {part: parsed}
    assert isinstance(parsed, dict)
    return parsed


def _type_of(known: DictConfig, key: str) -> Any:
    """The declared type of a setting; None where there is no such setting."""
    *blocks, last = key.split(".")
    node: Any = known
    kind: Any = RunSettings
    for name in blocks:
        node = node[name] if isinstance(node, DictConfig) and name in node else None
        found = OmegaConf.get_type(node) if isinstance(node, DictConfig) else None
        declared = get_args(kind)[1] if get_origin(kind) is dict else get_type_hints(kind).get(name)
        # A learner's block is of a class that no annotation names.
        kind = found if dataclasses.is_dataclass(found) else declared
        if not dataclasses.is_dataclass(kind) and get_origin(kind) is not dict:
            return None
    return get_type_hints(kind).get(last) if dataclasses.is_dataclass(kind) else None


def _lay(
    under: DictConfig, values: dict[str, Any], source: str, *, key: str = "", ignore_unknown: bool = False
) -> DictConfig:
    """Lays the settings of one source over those of the sources before it; `key` is what the source sets, where that is one."""
    try:
        merged = OmegaConf.unsafe_merge(under, _prepared(values, under, ignore_unknown=ignore_unknown))
    except (ConfigKeyError, ConfigAttributeError) as error:
        raise LussError(f"unknown setting {str(error.full_key)!r} in {source}{_nearest(error, under)}") from error
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        key = getattr(error, "full_key", None) or key
        raise LussError(f"{f'{key} in ' if key else ''}{source}: {str(error).splitlines()[0]}") from error
    assert isinstance(merged, DictConfig)
    return merged


def _prepared(values: dict[str, Any], under: DictConfig, *, ignore_unknown: bool) -> dict[str, Any]:
    """What a person may leave out is filled in: a named block given by its name, a block whose lines are all commented out."""
    found = {}
    is_open = not dataclasses.is_dataclass(OmegaConf.get_type(under))
    for name, value in values.items():
        if ignore_unknown and not is_open and name not in under and not OmegaConf.is_missing(under, name):
            continue
        block = under.get(name)
        if isinstance(block, DictConfig):
            if value is None:
                continue
            if isinstance(value, str) and "name" in block:
                value = {"name": value}
            if isinstance(value, dict):
                block = _of_method(under, name, value)
                value = _prepared(value, block, ignore_unknown=ignore_unknown)
        found[str(name)] = value
    return found


def _of_method(under: DictConfig, name: str, value: dict[str, Any]) -> DictConfig:
    """The block that a mapping is laid over: one that names another learner replaces the block by that learner's."""
    kind = OmegaConf.get_type(under[name])
    wanted = value.get("name", under[name].get("name"))
    if isinstance(kind, type) and issubclass(kind, MethodSettings) and wanted != under[name].name:
        under[name] = method_class(str(wanted)).Settings()
    block = under[name]
    assert isinstance(block, DictConfig)
    return block


def _nearest(error: Any, known: DictConfig) -> str:
    with_names = OmegaConf.merge(known, {"name": "x", "data": {"root": "x"}})
    key, keys = str(error.full_key), sorted(set(all_keys(OmegaConf.to_object(with_names))))
    if key.startswith("pretrain.method."):
        # The setting of another learner: what this one has is meant.
        keys = [name for name in keys if name.startswith("pretrain.method.")]
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    # A right name in the wrong block: compare last parts; of several blocks the nearest.
    alike = [name for name in keys if name.split(".")[-1] == key.split(".")[-1]]
    elsewhere = difflib.get_close_matches(key, alike, n=1, cutoff=0)
    found = (elsewhere or near) if not near or key.rpartition(".")[0] != near[0].rpartition(".")[0] else near
    return f": did you mean {found[0]!r}?" if found else ": `luss config FILE` lists every setting"
