"""The documents are true: the map of the code, every command line, every setting.

Command lines are parsed here; `tests/stages/test_documented_commands.py` runs them.
"""

import ast
import re
from collections.abc import Iterator
from functools import reduce
from types import SimpleNamespace
from typing import Any

import pytest
from documented import BLOCKS, DOCUMENTS, ROOT, SPANS, filled_in, in_text

from luss.config import all_keys, load_config
from luss.errors import LussError
from luss.export import FORMATS, PREDICTED
from luss.methods.pass_s import PassSSettings
from luss.settings import PretrainSettings, ResourceSettings, RunSettings
from stages import cli
from stages.commands import stage
from stages.comparing.grid import read_grid
from stages.running.runner import select

pytestmark = pytest.mark.slow


class Told:
    """Parses command lines as the commands do, and keeps what they would be called with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.options: list[Any] = []
        for command in cli.COMMANDS.values():
            monkeypatch.setattr(command, "main", self.options.append)
        monkeypatch.setattr(stage, "run_stages", lambda run, stages, **words: self.options.append(SimpleNamespace()))
        monkeypatch.setattr(stage, "run_shards", lambda run, stage, shards: self.options.append(SimpleNamespace()))

    def __call__(self, words: list[str]) -> int | str | None:
        """The exit code; settings are read, and names of stages looked up."""
        if "stages" in words:
            return self._code(stage.main, words[words.index("stages") + 1 :])
        code = self._code(cli.main, words[1:])
        if code == 0 and self.options and hasattr(self.options[-1], "words"):
            options = self.options[-1]
            compares = words[1] == "compare"
            run = (
                read_grid(options.config, options.words).cells[0].run
                if compares
                else load_config(options.config, options.words)
            )
            named = {
                key: value
                for key in ("until", "only", "force")
                if (value := getattr(options, key, None)) not in (None, "STAGE")
            }
            select(run, **named)
        return code

    @staticmethod
    def _code(main: Any, words: list[str]) -> int | str | None:
        try:
            code: int = main(words)
        except SystemExit as ended:
            return ended.code
        return code


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    monkeypatch.chdir(ROOT)
    return Told(monkeypatch)


def test_command_lines_of_every_kind_are_found() -> None:
    lines = [line for _, line in BLOCKS]
    assert len(lines) > 60
    assert len(SPANS) > 40
    assert any(
        line.startswith("torchrun --nproc-per-node=8 -m stages pixel_attention configs/imagenet_s50.yaml")
        for line in lines
    )
    assert any("configs/methods/swav.yaml" in line for line in lines)
    assert {"README.md", "docs/slurm.md", "docs/own-folder.md", "configs/objects27.yaml"} <= {
        name for name, _ in BLOCKS
    }


@pytest.mark.parametrize(("name", "line"), BLOCKS, ids=lambda value: str(value)[:70])
def test_a_command_line_of_the_documents_can_be_typed(
    name: str, line: str, told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(filled_in(line)) == 0, capsys.readouterr().err


@pytest.mark.parametrize(("name", "span"), SPANS, ids=lambda value: str(value)[:70])
def test_a_command_named_in_a_sentence_exists_with_its_options(
    name: str, span: str, told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    words = filled_in(span)
    if told(words) == 0:
        return
    assert "the following arguments are required" in capsys.readouterr().err
    # A sentence may leave words out; the options that it has must be there.
    assert told([*words[:2], "--help"]) == 0
    known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known


BLOCK_NAMES = set(vars(RunSettings(name="x")))
KEYS = set(all_keys(RunSettings(pretrain=PretrainSettings(method=PassSSettings()))))
SETTING = re.compile(r"(?P<key>[a-z_]+(\.[a-z_0-9]+)+)(?P<equals>=|: |$)(?P<value>.*)")


def settings_in_text() -> Iterator[tuple[str, str, str, str]]:
    """Settings by their dotted names: document, key, value where there is one, and what was written."""
    for name, span in dict.fromkeys(in_text()):
        words = span.split(" ") if span.count("=") > 1 else [span]
        for match in filter(None, map(SETTING.fullmatch, words)):
            if match["key"].partition(".")[0] in BLOCK_NAMES and not match["key"].endswith((".py", ".yaml", ".json")):
                yield name, match["key"], match["value"] if match["equals"] == "=" else "", match[0]


WRITTEN = list(settings_in_text())


def test_settings_are_found_in_the_text() -> None:
    assert len(WRITTEN) > 50
    assert ("README.md", "pretrain.method.points", "", "pretrain.method.points") in WRITTEN


@pytest.mark.parametrize(("name", "key", "value", "written"), WRITTEN, ids=lambda value: str(value)[:50])
def test_a_setting_named_in_a_document_exists_and_takes_the_value(
    name: str, key: str, value: str, written: str
) -> None:
    first, _, rest = key.partition(".")
    if first == "resources":
        assert rest.partition(".")[2] in {"", *all_keys(ResourceSettings())}
    else:
        assert key in KEYS
    # Not what stands for a value, nor the learner that is an example.
    if value and not value.isupper() and value != "barlow_twins":
        config = ROOT / "configs" / "objects27_cpu.yaml"
        try:
            load_config(config, [written])
        except LussError:
            # A list that the setting does not take is an axis of a comparison.
            assert value.startswith("["), written
            read_grid(config, [written])


@pytest.mark.parametrize("package", ["luss", "stages"])
def test_the_map_in_the_readme_names_every_folder_and_every_loose_file(package: str) -> None:
    table = DOCUMENTS["README.md"].partition(f"| in `{package}/` |")[2].partition("\n\n")[0]
    named = re.findall(r"^\| `([\w./]+)` \| \S", table, re.M)
    there = [
        f"{path.name}/" if path.is_dir() else path.name
        for path in (ROOT / package).iterdir()
        if path.suffix == ".py" or (path.is_dir() and any(path.glob("*.py")))
    ]
    assert sorted(named) == sorted(there)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_of_the_repository_that_a_document_names_exist(name: str) -> None:
    spans = [span.split(" ")[0] for document, span in in_text() if document == name]
    files = {
        span for span in spans
        if re.fullmatch(r"(luss|stages|tests|configs|benchmarks|examples)/[\w./-]+\.(py|yaml|sh)", span)
        and not re.search(r"[A-Z]{3}|barlow_twins|plain_cnn", span)
    }  # fmt: skip
    assert files or name in ("docs/reading-the-report.md", "docs/use-the-labels.md")
    assert not {file for file in files if not (ROOT / file).is_file()}


def test_the_table_of_what_the_published_code_does_otherwise_has_the_values_of_both() -> None:
    table = DOCUMENTS["README.md"].partition("| setting | default | the published code |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `([\w.]+)` \| `(\w+)`.* \| `(\w+)`.* \|$", table, re.M)
    assert len(rows) == table.count("\n") - 1
    published = load_config(ROOT / "configs" / "objects27_cpu_published.yaml")
    for run, column in ((RunSettings(name="x", pretrain=PretrainSettings(method=PassSSettings())), 1), (published, 2)):
        for row in rows:
            assert str(reduce(getattr, row[0].split("."), run)).lower() == row[column], row[0]


ROWS = re.findall(
    r"^\| `(luss \w+).*` \| (.*) \|$", DOCUMENTS["README.md"].partition("### Commands")[2].partition("\n###")[0], re.M
)


@pytest.mark.parametrize(("command", "what"), ROWS, ids=lambda value: str(value)[:20])
def test_the_options_beside_a_command_are_its_own(
    command: str, what: str, told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told([*command.split(), "--help"]) == 0
    own = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    assert {option for span in re.findall(r"`(--[^`]+)`", what) for option in re.findall(r"--[\w-]+", span)} <= own


def test_every_command_has_a_row_or_stands_in_one() -> None:
    assert {command for _, span in SPANS for command in cli.COMMANDS if span.startswith(f"luss {command}")} == set(
        cli.COMMANDS
    )
    assert len(ROWS) >= len(cli.COMMANDS) - 2


def test_every_format_is_in_the_table_of_commands() -> None:
    export, predict = (
        re.search(rf"^\| `luss {name} .*", DOCUMENTS["README.md"], re.M)[0].split(" | ", 1)[1]
        for name in ("export", "predict")
    )
    spans = re.findall(r"`([a-z -]+)`", export.partition("([docs")[0])
    assert {word for span in spans for word in span.split()} == set(FORMATS)
    assert f"`--format {' '.join(PREDICTED)}`" in predict


@pytest.fixture(scope="module")
def texts() -> str:
    """Every piece of text in the code, one a line."""
    trees = (
        ast.parse(path.read_text(encoding="utf-8"))
        for room in ("luss", "stages")
        for path in (ROOT / room).rglob("*.py")
    )
    return "\n".join(
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


@pytest.mark.parametrize("name", ["README.md", "docs/own-folder.md", "docs/slurm.md"])
def test_a_message_that_troubleshooting_quotes_is_one_that_the_code_has(name: str, texts: str) -> None:
    tables = DOCUMENTS[name].split("| what you see | what helps |")[1:]
    assert tables
    for table in tables:
        cells = [line.split("|")[1] for line in table.partition("\n\n")[0].splitlines() if line.startswith("| ")]
        for message in (message for cell in cells for message in re.findall("`([^`]+)`", cell)):
            # What is filled in when it is said: numbers, paths, names.
            pieces = re.split(r"\.\.\.|[()]|\b[A-Z]+\b|\d+|\S*[/.]\S*", message)
            assert all(piece.strip() in texts for piece in pieces), message
