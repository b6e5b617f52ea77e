"""The command line of a single stage: `python -m stages STAGE CONFIG.yaml key=value ...`, alone or under torchrun; or of shards of it."""

import argparse
import sys
import textwrap
from collections.abc import Sequence

from luss.config import load_config
from luss.settings import RunSettings
from stages.base import AnyStage
from stages.commands.base import KEY_VALUE, config_arguments, parsed
from stages.pipeline import MANIFEST, STAGES
from stages.running.runner import run_stages
from stages.running.shard_work import run_shards
from stages.running.signals import guarded
from stages.running.state import States


def _listing(run: RunSettings, stage: AnyStage) -> list[AnyStage]:
    """The manifest, where it is missing before a stage that needs nothing else: `run_stages` lets one of several processes make it."""
    due = stage.needs == (MANIFEST,) and States(run).of(MANIFEST).kind in ("missing", "partial")
    return [MANIFEST] if due else []


def _alone(stage: AnyStage) -> str:
    listing = ", but for the manifest, which is made" if stage.needs == (MANIFEST,) else ""
    return "this stage alone" + (f"; what it needs must be done{listing}" if stage.needs else "")


def _examples(stage: AnyStage) -> str:
    command = f"-m stages {stage.name} configs/demo.yaml"
    lines = {
        f"python {command}": _alone(stage),
        f"python {command} seed=1 device=cpu": "with other settings",
    }
    if stage.sharded:
        lines[f"python {command} --shard 3"] = "one piece, beside other processes that make others"
    if stage.distributed:
        lines[f"torchrun --nproc-per-node=2 {command}"] = "two processes"
    width = max(map(len, lines)) + 2
    return "examples:\n" + "".join(f"  {line:<{width}}{text}\n" for line, text in lines.items()) + f"\n{KEY_VALUE}"


def _arguments(parser: argparse.ArgumentParser, stage: AnyStage) -> None:
    about = " ".join(f"{stage.__doc__} Continues where an earlier try stopped.".split())
    parser.description, parser.epilog = textwrap.fill(about, 100), _examples(stage)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    config_arguments(parser)
    parser.add_argument("--force", action="store_true", help="run anew although the stage is done")
    if stage.sharded:
        parser.add_argument(
            "--shard", action="append", type=int, default=[], metavar="I",
            help="make this shard alone (may be given again for more); the stage without --shard joins them",
        )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m stages", description="Runs one stage of a run.")
    parsers = parser.add_subparsers(dest="command", required=True, metavar="STAGE")
    for name, stage in STAGES.items():
        _arguments(parsers.add_parser(name, help=str(stage.__doc__).splitlines()[0]), stage)

    def work() -> None:
        options = parsed(parser, parsers.choices, sys.argv[1:] if arguments is None else arguments)
        stage, shards = STAGES[options.command], getattr(options, "shard", [])
        if shards and options.force:
            parsers.choices[stage.name].error("--force runs the whole stage anew: leave out --shard")
        run = load_config(options.config, options.words)
        if shards:
            run_shards(run, stage, shards)
        else:
            run_stages(run, [*_listing(run, stage), stage], force=stage.name if options.force else None)

    return guarded(work)
