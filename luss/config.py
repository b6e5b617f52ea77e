"""Reading a run's configuration: YAML files laid over each other, then `key.sub=value` words. Mistakes are refused before anything runs."""

import contextlib
import copy
import dataclasses
import difflib
import functools
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from luss.errors import LussError
from luss.files import read_user_text
from luss.methods import method_class
from luss.settings import MethodSettings, RunSettings
from luss.settings.fields import all_keys, problems

# A name's byte 0xNN that is not UTF-8 is the letter U+DCNN (PEP 383), which no YAML may hold: U+10F7NN, which is nobody's, stands for it.
_BYTES_TO_LETTERS = {0xDC00 + byte: 0x10F700 + byte for byte in range(0x80, 0x100)}
_LETTERS_TO_BYTES = {letter: byte for byte, letter in _BYTES_TO_LETTERS.items()}
RUN_CONFIG = "run.yaml"
"""In the folder of a run: the settings that a stage of it was last started with."""

_SUFFIXES = (".yaml", ".yml")
_TEXT = (str, str | None)
_TEXTS = (list[str], list[str] | None)
_MAX_DEPTH, _MAX_VALUES = 50, 100_000


def shipped_configs() -> dict[str, Path]:
    """The configurations that luss brings, by name.

    Example:
        >>> from luss.config import shipped_configs
        >>> "objects27_cpu" in shipped_configs(), "methods/swav" in shipped_configs()
        (True, True)
    """
    # A link to the folder of the repository; a folder in what is installed.
    folder = Path(__file__).parent / "configs"
    return {path.relative_to(folder).as_posix().removesuffix(".yaml"): path for path in sorted(folder.rglob("*.yaml"))}


def find_config(name: Path | str) -> Path:
    """The file of a configuration: that file, with or without `.yaml`; where there is none, what luss brings under the name.

    Returns:
        A file that need not exist: where nothing is found, what was asked for.
    """
    given = Path(name)
    found = next((path for path in (given, Path(f"{name}.yaml")) if path.is_file()), None)
    return found or shipped_configs().get(_shipped_name(given), given)


def load_config(path: Path | str, words: Sequence[str] = ()) -> RunSettings:
    """Reads and checks a configuration.

    Example:
        >>> import luss
        >>> luss.load_config("configs/demo.yaml", ["pretrain.epochs=1"]).pretrain.epochs
        1

    Args:
        path: YAML file, or the name of a configuration that luss brings (`find_config`), such as "demo".
        words: Laid over it in order: settings such as "pretrain.epochs=10", or more YAML files. A block that has a name may be given by
            it alone ("pretrain.method=swav"); one that names another learner begins with that learner's defaults.

    Returns:
        Typed settings; `output` is filled in, and `typed` has the keys of the words.

    Raises:
        LussError: Naming the key, where it came from and the nearest valid key; or the value that cannot be.
    """
    path, merged = find_config(path), _schema()
    merged, wrong = _lay(merged, _read_yaml(path, merged), f"file {path}"), []
    typed: set[str] = set()
    for word in words:
        if _is_config(word):
            merged = _lay(merged, _read_yaml(find_config(word), merged), f"file {word}")
            continue
        try:
            values = _parse_word(word, merged)
            merged = _lay(merged, values, f"word {word!r}", key=word.partition("=")[0])
            typed |= set(_keys(values))
        except LussError as error:
            wrong.append(str(error))
    settings = _finished(merged, str(path), wrong)
    settings.typed = frozenset(typed)
    return settings


def _is_config(word: str) -> bool:
    """Whether a word is a configuration, and no setting."""
    return "=" not in word and (word.endswith(_SUFFIXES) or find_config(word).is_file())


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
    merged = _lay(_schema(), _read_yaml(find_config(path)), f"file {path}")
    for word in words:
        if _is_config(word):
            merged = _lay(merged, _read_yaml(find_config(word)), f"file {word}")
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


def load_run_config(folder: Path, stages: Sequence[str]) -> RunSettings:
    """Reads the settings that a run was last started with: its `run.yaml`, else the `config.yaml` of its last stage that can be read.

    Never by the files' times, which copies of a run do not keep.

    Args:
        folder: The run's folder.
        stages: Its stages, in order; those that are not named come last.

    Raises:
        LussError: The folder holds no run, or no such file can be read.
    """
    stages = [*sorted(path.parent.name for path in folder.glob("*/config.yaml")), *stages]
    problems = []
    for path in (folder / RUN_CONFIG, *(folder / name / "config.yaml" for name in reversed(stages))):
        if path.is_file():
            try:
                return load_stored_config(path)
            except LussError as error:
                problems.append(str(error))
    if not problems:
        raise LussError(f"{folder} holds no run: give the folder of one, such as outputs/demo")
    raise LussError(
        f"no settings of the run {folder} can be read: copy the configuration that it was started with to {folder / RUN_CONFIG} "
        f"({problems[0]})"
    )


def to_yaml(settings: Any) -> str:
    """A settings object as YAML, resolved; bytes of names that are not UTF-8 as private letters, which are read as these bytes again."""
    found = OmegaConf.structured(settings)
    try:
        return str(OmegaConf.to_yaml(found))
    except UnicodeEncodeError:
        content = OmegaConf.to_container(found, enum_to_str=True)
        return str(OmegaConf.to_yaml(OmegaConf.create(_translated(content, _BYTES_TO_LETTERS))))


def _escaped(name: str) -> str:
    """A name that is not UTF-8, as it can be shown; empty for others."""
    shown = name.encode("utf-8", "backslashreplace").decode()
    return shown if shown != name else ""


def _translated(value: Any, table: dict[int, int]) -> Any:
    """A value of YAML with other letters in its texts."""
    if isinstance(value, str):
        return value.translate(table)
    if isinstance(value, dict):
        return {key: _translated(each, table) for key, each in value.items()}
    return [_translated(each, table) for each in value] if isinstance(value, list) else value


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
    data, pretrain = settings.data, settings.pretrain
    paths: list[tuple[Any, str]] = [(settings, "output"), (data, "root"), (data, "train"), (data.shapes, "folder")]
    for block, name in (*paths, (pretrain, "weights"), (pretrain.backbone, "weights")):
        setattr(block, name, os.path.expanduser(getattr(block, name)))
    data.extra = [os.path.expanduser(each) if isinstance(each, str) else each for each in data.extra]
    if not settings.output:
        settings.output = f"outputs/{settings.name}"
    wrong = [*wrong, *problems(settings)]
    if escaped := _escaped(settings.output):
        wrong.append(
            f"output is {escaped}, a name that is not UTF-8, where weights cannot be written (safetensors): give another"
        )
    if wrong:
        raise LussError("\n".join(wrong))
    return settings


def _read_yaml(path: Path, known: DictConfig | None = None) -> dict[str, Any]:
    """The settings of a file; where the settings that there are are `known`, texts are what is written, not what YAML makes of it."""
    try:
        text = read_user_text(path)
        _check_unfolded(path, text)
        content = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))
        if known is not None and isinstance(content, dict):
            _keep_texts(content, yaml.load(text, yaml.BaseLoader), known)
    except FileNotFoundError as error:
        raise LussError(f"the configuration {path} does not exist{nearest_config(path)}") from error
    except LussError:
        raise
    except (OSError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise LussError(f"the configuration {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise LussError(f"the configuration {path} must be a mapping of settings, not {type(content).__name__}")
    return {str(key): _translated(value, _LETTERS_TO_BYTES) for key, value in content.items()}


def _keep_texts(values: dict[Any, Any], written: Any, known: DictConfig, prefix: str = "") -> None:
    """Gives texts of which YAML has made numbers and truths (2023_05, on) back as they are `written`."""
    guesses = (bool, int, float)
    for name, value in values.items():
        # What another block was merged from is written elsewhere.
        text, key = written.get(name) if isinstance(written, dict) else None, f"{prefix}{name}"
        if isinstance(value, dict):
            _keep_texts(value, text, known, f"{key}.")
        elif isinstance(value, guesses) and isinstance(text, str) and is_text(_type_of(known, key)):
            values[name] = text
        elif isinstance(value, list) and isinstance(text, list) and _type_of(known, key) in _TEXTS:
            values[name] = [each if isinstance(one, guesses) else one for one, each in zip(value, text, strict=True)]


def _shipped_name(path: Path) -> str:
    """What a path would be called among the configurations that luss brings."""
    return path.as_posix().removeprefix("configs/").removesuffix(".yaml")


def nearest_config(path: Path) -> str:
    """A question for whoever mistyped the name of a configuration: beside it, or among those that luss brings."""
    beside = {each.name: str(path.parent / each.name) for each in path.parent.glob("*.y*ml")}
    names = beside | {name: name for name in shipped_configs()}
    wanted = (path.name, _shipped_name(path))
    near = next((found[0] for each in wanted if (found := difflib.get_close_matches(each, names, n=1))), None)
    return f": did you mean {names[near]}?" if near else ": `luss configs` lists those that luss brings"


def _check_unfolded(path: Path, text: str) -> None:
    """Refuses a file of a few lines that unfolds to more than memory holds, or whose depth would end the process: libyaml has no limits."""
    sizes: dict[str | None, int] = {}
    around: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        anchor, size = getattr(event, "anchor", None), 0
        if isinstance(event, yaml.CollectionStartEvent):
            around.append((anchor, 1))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = around.pop()
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
        elif isinstance(event, yaml.AliasEvent):
            # One that is still open refers to itself.
            size = sizes.get(anchor, _MAX_VALUES)
        if size and not isinstance(event, yaml.AliasEvent):
            sizes[anchor] = size
        around[-1] = (around[-1][0], around[-1][1] + size)
        if len(around) > _MAX_DEPTH or around[-1][1] >= _MAX_VALUES:
            raise LussError(
                f"the configuration {path} unfolds to more than settings can be: it was not written by luss"
            )


def _parse_word(word: str, known: DictConfig) -> dict[str, Any]:
    key, equals, value = word.partition("=")
    if not equals or not key:
        wanted = "neither of the form key=value, such as pretrain.epochs=10, nor a configuration"
        raise LussError(f"{word!r} is {wanted}{nearest_config(Path(word))}")
    kind = _type_of(known, key)
    try:
        # YAML would make a number of 2023_05 and a truth of on; a text is what was typed, in a list too.
        parsed: Any = value if is_text(kind) or not value.strip() else yaml.safe_load(value)
        if kind in _TEXTS and isinstance(parsed, list):
            parsed = yaml.load(value, yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise LussError(f"the value of {word!r} cannot be read: {error}") from error
    if list in (get_origin(kind), *map(get_origin, get_args(kind))) and not isinstance(parsed, list | None):
        raise LussError(f"{key} in word {word!r} is a list: {key}=[{value.strip()}]")
    for part in reversed(key.split(".")):
        parsed = {part: parsed}
    assert isinstance(parsed, dict)
    return parsed


def _keys(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys of everything that is set."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


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
