"""The pipeline: stages, what runs them, and the commands."""

import sys


def _refuse_old_words() -> None:
    """Ends `python -m stages.STAGE`, which would do nothing: stages are no scripts. Python imports this package before that module."""
    if sys.argv[:1] == ["-m"]:
        package, _, name = sys.orig_argv[-len(sys.argv)].removeprefix("-m").partition(".")
        if package == __name__ and name not in ("", "cli"):
            print(
                f"error: a stage is no script: type `-m {package} {name}` with the same words after it", file=sys.stderr
            )
            sys.exit(2)


_refuse_old_words()
