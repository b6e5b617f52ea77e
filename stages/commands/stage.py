"""The command line of a single stage: `python -m stages.STAGE CONFIG.yaml key=value ...`, alone or under torchrun; or of shards of it."""

import argparse
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from luss.config import load_config
from luss.errors import LussError
from luss.files import is_disk_full
from luss.progress import Interrupted

# What shells report for a process that ended on Ctrl-C; schedulers and scripts tell it from a failure.
EXIT_INTERRUPTED = 130
EXIT_USER_ERROR = 2

# Ends the help of every command that takes settings.
KEY_VALUE = """key=value sets one setting and wins over the file: the key is its dotted name, block first; of two words for one key the later wins.
`luss config CONFIG.yaml` lists every key with its value. Lists are written protocols=[distance_matching,semi_supervised]."""


def guarded(work: Callable[[], None]) -> int:
    """Runs a command and turns the errors that a person can mend into one message and an exit code."""
    try:
        work()
    except LussError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except (Interrupted, KeyboardInterrupt) as error:
        print(f"stopped: {str(error) or 'interrupted'}; run the same command to continue", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (OSError, RuntimeError) as error:
        if is_disk_full(error):
            print(f"error: the disk is full ({error}): free some space and run the same command again", file=sys.stderr)
            return EXIT_USER_ERROR
        raise
    return 0


def _examples(stage: str) -> str:
    from stages.pipeline import STAGES

    command = f"-m stages.{stage} configs/demo.yaml"
    lines = {
        f"python {command}": "this stage alone; what it needs must be done",
        f"python {command} seed=1 device=cpu": "with other settings",
    }
    if STAGES[stage].sharded:
        lines[f"python {command} --shard 3"] = "one piece, beside other processes that make others"
    if STAGES[stage].distributed:
        lines[f"torchrun --nproc-per-node=2 {command}"] = "two processes"
    width = max(map(len, lines)) + 2
    return "examples:\n" + "".join(f"  {line:<{width}}{text}\n" for line, text in lines.items()) + f"\n{KEY_VALUE}"


def stage_main(name: str, arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m stages.<name>`; exits the process."""
    from stages.pipeline import STAGES
    from stages.running.runner import run_shards, run_stages

    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{name}",
        description=textwrap.fill(
            " ".join(f"{STAGES[name].__doc__} Continues where an earlier try stopped.".split()), 100
        ),
        epilog=_examples(name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, help="YAML file, such as configs/demo.yaml")
    parser.add_argument(
        "words", nargs="*", metavar="key=value", help="settings that win over the file, such as pretrain.epochs=10"
    )
    parser.add_argument("--force", action="store_true", help="run anew although the stage is done")
    if STAGES[name].sharded:
        parser.add_argument(
            "--shard", action="append", type=int, default=[], metavar="I",
            help="make this shard alone (may be given again for more); the stage without --shard joins them",
        )  # fmt: skip
    options = parser.parse_intermixed_args(arguments)
    shards = getattr(options, "shard", [])
    if shards and options.force:
        parser.error("--force runs the whole stage anew: leave out --shard")

    def work() -> None:
        run = load_config(options.config, options.words)
        if shards:
            run_shards(run, STAGES[name], shards)
            return
        run_stages(run, [STAGES[name]], force=name if options.force else None)

    sys.exit(guarded(work))
