"""The command `luss`."""

import argparse
import sys
from collections.abc import Sequence

from stages.commands import (
    baselines,
    cancel,
    compare,
    config,
    configs,
    demo,
    evaluate,
    export,
    init,
    labels,
    logs,
    predict,
    prepare,
    report,
    run,
    status,
    submit,
    verify,
)
from stages.commands.base import Command, parsed
from stages.running.signals import guarded

COMMANDS: dict[str, Command] = {
    "run": run,
    "status": status,
    "predict": predict,
    "export": export,
    "compare": compare,
    "submit": submit,
    "logs": logs,
    "cancel": cancel,
    "config": config,
    "configs": configs,
    "init": init,
    "demo": demo,
    "evaluate": evaluate,
    "baselines": baselines,
    "report": report,
    "labels": labels,
    "prepare": prepare,
    "verify": verify,
}

_EPILOG = """examples:
  luss demo                                              every stage on the embedded data, with an untrained network beside it
  luss configs                                           the configurations that luss brings; luss init copies one to edit
  luss run objects27_cpu name=photos data.root=PHOTOS    a folder of your own
  luss run CONFIG.yaml --until cluster                   stop after a stage; the same command without it continues
  luss run CONFIG.yaml pretrain.epochs=50 --dry-run      say what would run, and why
  luss status outputs/demo                               state, progress and age of every stage
  luss predict outputs/demo PHOTOS --out MASKS           segment any folder with a trained model
  luss labels outputs/demo --merge 3,17 --drop 5         edit the pseudo labels; no image is read again
  luss export outputs/demo --format coco --out COCO      the pseudo labels for other programs
  luss submit CONFIG.yaml --partition gpu                 every stage as a job of a SLURM cluster; luss status says how far it is
  luss config CONFIG.yaml                                every setting with its value
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="luss",
        description="Semantic segmentation without labels: a folder of images in, discovered categories and pixel masks out.",
        epilog=_EPILOG,
        formatter_class=raw,
    )
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.arguments(parsers.add_parser(name, help=command.HELP, description=command.HELP, formatter_class=raw))

    def work() -> None:
        options = parsed(parser, parsers.choices, sys.argv[1:] if arguments is None else arguments)
        COMMANDS[options.command].main(options)

    return guarded(work)


if __name__ == "__main__":
    sys.exit(main())
