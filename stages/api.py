"""The pipeline for notebooks and scripts: what `luss run` does, as functions."""

import os
from pathlib import Path

from luss.config import load_config
from luss.errors import LussError
from luss.settings import RunSettings
from stages.running.preflight import preflight
from stages.running.runner import run_stages, select
from stages.running.screen import Console

Config = str | os.PathLike[str] | RunSettings
"""A YAML file, or settings that are loaded already."""


def run(config: Config, *words: str, until: str | None = None, force: str | None = None) -> Path:
    """Runs every stage that is not done, and continues interrupted ones, as `luss run` does.

    Example:
        >>> from stages.api import run
        >>> folder = run("configs/demo.yaml", "name=mine", until="manifest")
        manifest...
        >>> (folder / "manifest" / "DONE.json").is_file()
        True

    Args:
        config: A YAML file, the name of one that luss brings, or settings.
        words: Settings such as "pretrain.epochs=10" that win over the file.
        until: The last stage to run.
        force: A stage to run anew although it is done.

    Returns:
        The run's folder.

    Raises:
        LussError: A mistake in the settings or the data; another process works on the run.
        Interrupted: Ctrl-C or SIGTERM; the same call continues.
    """
    settings, console = _settings(config, words), Console()
    chosen = select(settings, until=until, force=force)
    preflight(settings, console)
    run_stages(settings, chosen, force=force, console=console)
    return Path(settings.output)


def run_stage(name: str, config: Config, *words: str, force: bool = False) -> Path:
    """Runs one stage; those that it needs must be done.

    Example:
        >>> from stages.api import run_stage
        >>> folder = run_stage("manifest", "configs/demo.yaml", "name=mine")
        manifest...
        >>> sorted(path.name for path in folder.glob("manifest/*.tsv"))
        ['train.tsv']

    Args:
        name: "manifest", "pretrain", ... as `luss status` lists them.
        config: A YAML file, or settings.
        words: Settings that win over the file.
        force: Run it anew although it is done.

    Returns:
        The stage's folder.

    Raises:
        LussError: No such stage; a stage that it needs is not done; as `run`.
        Interrupted: As `run`.
    """
    settings = _settings(config, words)
    run_stages(settings, select(settings, only=name), force=name if force else None)
    return Path(settings.output) / name


def _settings(config: Config, words: tuple[str, ...]) -> RunSettings:
    if not isinstance(config, RunSettings):
        return load_config(Path(config), words)
    if words:
        raise LussError("words are read together with a file: change the settings themselves, or give the file")
    return config
