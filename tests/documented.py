"""The documents, and the command lines in them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
}
CONFIGS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(ROOT.glob("configs/**/*.yaml"))
}
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.M | re.S)
COMMAND = re.compile(r"(luss \w|python -m stages \w|torchrun )")
# What a synopsis leaves open, and something that may stand there.
OPEN = {
    "CONFIG.yaml": "configs/demo.yaml",
    "--format F": "--format png",
    "--num-classes C": "--num-classes 50",
    "--shard I": "--shard 1",
}


def others() -> Iterator[tuple[str, str]]:
    """The other lines of the blocks that say that they are for a shell."""
    for name, text in DOCUMENTS.items():
        lines = "\n".join(body for _, kind, body in FENCE.findall(text) if kind == "bash").replace("\\\n", " ")
        known = re.compile(rf"{COMMAND.pattern}|for .* do {COMMAND.pattern}|[A-Z]+=|$")
        yield from ((name, line.strip()) for line in lines.splitlines() if not known.match(line.strip()))


def in_blocks() -> Iterator[tuple[str, str]]:
    """Command lines of the fenced blocks, and of the comments of configurations: loops unrolled, variables filled in."""
    for name, text in DOCUMENTS.items():
        blocks = (body for _, kind, body in FENCE.findall(text) if kind in ("", "bash"))
        yield from ((name, line) for line in shell_lines("\n".join(blocks)))
    for name, text in CONFIGS.items():
        lines = [line.lstrip("# ") for line in text.splitlines() if line.lstrip().startswith("#")]
        yield from ((name, line) for line in lines if COMMAND.match(line))


def shell_lines(blocks: str) -> Iterator[str]:
    variables: dict[str, str] = {}
    for line in blocks.replace("\\\n", " ").splitlines():
        line = line.strip()
        if assigned := re.fullmatch(r"([A-Z]+)=(\S+)", line):
            variables["$" + assigned[1]] = assigned[2]
        loop = re.fullmatch(r"for (\w+) in ([^;]+); do (.+); done", line)
        for value in loop[2].split() if loop else [""]:
            command = (loop[3] if loop else line).removeprefix("srun -c 8 ")
            for variable, filled in {**variables, **({f"${loop[1]}": value} if loop else {})}.items():
                command = command.replace(variable, filled)
            if COMMAND.match(command):
                yield command


def in_text() -> Iterator[tuple[str, str]]:
    """What stands between backticks outside of blocks."""
    for name, text in DOCUMENTS.items():
        yield from ((name, span) for span in re.findall(r"`([^`\n]+)`", FENCE.sub("", text)))


def filled_in(line: str) -> list[str]:
    """The words of a command line, with something in the place of what a synopsis leaves open."""
    line = re.sub(r"\[key[\w.]*=value \.\.\.\]", "", line)
    line = re.sub(r"-m stages STAGE", "-m stages predict" if "--shard" in line else "-m stages pretrain", line)
    for open_word, word in OPEN.items():
        line = line.replace(open_word, word)
    return [word for word in shlex.split(line, comments=True) if word != "..."]


BLOCKS = list(dict.fromkeys(in_blocks()))
SPANS = [(name, span) for name, span in dict.fromkeys(in_text()) if COMMAND.match(span)]
