"""The command `luss`."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from luss.config import load_config, to_yaml
from luss.settings import RunSettings
from stages.command import guarded

_EPILOG = """examples:
  luss demo                                              every stage on the embedded data, with an untrained network beside it
  luss run configs/objects27_cpu.yaml data.root=PHOTOS   a folder of your own
  luss run CONFIG.yaml --until cluster                   stop after a stage; the same command without it continues
  luss run CONFIG.yaml pretrain.epochs=50 --dry-run      say what would run, and why
  luss status outputs/demo                               state, progress and age of every stage
  luss config CONFIG.yaml                                every setting with its value
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="luss",
        description="Semantic segmentation without labels: a folder of images in, discovered categories and pixel masks out.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands.add_parser("run", help="run every stage that is not done", description="Runs every stage that is not done; "
             "continues interrupted ones; moves results of other settings aside and runs those stages anew."))  # fmt: skip
    status = commands.add_parser("status", help="state of every stage of a run")
    status.add_argument("run", type=Path, help="the run's folder, such as outputs/demo")
    config = commands.add_parser("config", help="print every setting, resolved")
    _add_config(config)
    demo = commands.add_parser(
        "demo", help="the embedded data set through every stage, and an untrained network beside it"
    )
    demo.add_argument("--config", type=Path, default=Path("configs/demo.yaml"))
    demo.add_argument("words", nargs="*", metavar="key=value")
    options = parser.parse_args(_words_first(arguments))
    handlers = {"run": _run, "status": _status, "config": _config, "demo": _demo}
    return guarded(lambda: handlers[options.command](options))


_TAKE_VALUE = ("--until", "--only", "--force")


def _words_first(arguments: Sequence[str] | None) -> list[str]:
    """Moves options behind the positionals, which argparse wants together: `run C.yaml --dry-run pretrain.epochs=3` works too."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    words = [word for word in given[1:] if "=" in word and not word.startswith("-")]
    others = [word for word in given[1:] if word not in words]
    values = {place + 1 for place, word in enumerate(others) if word in _TAKE_VALUE}
    config = next((i for i, word in enumerate(others) if not word.startswith("-") and i not in values), None)
    if not words or config is None or given[0] not in ("run", "config"):
        return given
    return [given[0], others[config], *words, *others[:config], *others[config + 1 :]]


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="YAML file, such as configs/demo.yaml")
    parser.add_argument(
        "words", nargs="*", metavar="key=value", help="settings that win over the file, such as pretrain.epochs=10"
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--until", metavar="STAGE", help="the last stage to run")
    which.add_argument("--only", metavar="STAGE", help="run this stage alone; what it needs must be done")
    parser.add_argument("--force", metavar="STAGE", help="run this stage anew although it is done; later ones follow")
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and why; change nothing")
    parser.add_argument("--print-config", action="store_true", help="print every setting, resolved; run nothing")


def _run(options: argparse.Namespace) -> None:
    run = load_config(options.config, options.words)
    if options.print_config:
        sys.stdout.write(to_yaml(run))
        return
    # Heavy libraries are imported only now: a mistake in the settings is told at once.
    from stages.runner import run_stages, select
    from stages.summary import preflight, print_results

    console = Console()
    chosen = select(until=options.until, only=options.only, force=options.force)
    preflight(run, console)
    if options.dry_run:
        console.print(_status_table(run, {stage.name for stage in chosen}, force=options.force))
        return
    run_stages(run, chosen, force=options.force, console=console)
    print_results([run], console)


def _config(options: argparse.Namespace) -> None:
    sys.stdout.write(to_yaml(load_config(options.config, options.words)))


def _status(options: argparse.Namespace) -> None:
    from stages.summary import settings_of_run

    Console().print(_status_table(settings_of_run(options.run), set()))


def _status_table(run: RunSettings, chosen: set[str], *, force: str | None = None) -> Table:
    from stages.base import stage_state
    from stages.console import duration
    from stages.registry import STAGES

    folder = Path(run.output)
    table = Table(title=str(folder), title_justify="left")
    for heading in ("stage", "state", "progress or reason", "work", "changed"):
        table.add_column(heading)
    if chosen:
        table.add_column("would")
    upstream_runs = False
    for name, stage in STAGES.items():
        state = stage_state(stage, run, folder, STAGES)
        age = f"{duration(time.time() - state.changed)} ago" if state.changed else ""
        row = [name, state.kind, state.detail, duration(state.seconds) if state.seconds else "", age]
        if chosen:
            # A stage that runs gives its product a new identity, so those that need it follow.
            runs = name in chosen and (state.kind != "done" or name == force or upstream_runs)
            upstream_runs = upstream_runs or runs
            row.append(("continue" if state.kind == "partial" else "run") if runs else "")
        table.add_row(*row)
    return table


def _demo(options: argparse.Namespace) -> None:
    run = load_config(options.config, options.words)
    floor = load_config(
        options.config, [*options.words, f"name={run.name}-floor", f"output={run.output}-floor", "pretrain.epochs=0"]
    )
    from stages.runner import run_stages, select
    from stages.summary import preflight, print_results

    console = Console()
    started = time.monotonic()
    for title, settings in (("the pipeline", run), ("the floor: the same stages over an untrained backbone", floor)):
        console.rule(title)
        preflight(settings, console)
        run_stages(settings, select(), console=console)
    print_results([run, floor], console)
    console.print(f"demo finished in {time.monotonic() - started:.0f} s", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
