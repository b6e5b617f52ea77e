"""The help of the commands that take settings: examples that work, and what key=value means."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from luss.config import all_keys
from luss.settings import ResourceSettings, RunSettings
from stages.cli import main
from stages.commands import stage
from stages.pipeline import STAGES

ROOT = Path(__file__).parents[2]
COMMANDS: dict[str, Callable[[], object]] = {
    "luss run": lambda: main(["run", "--help"]),
    "luss submit": lambda: main(["submit", "--help"]),
    "luss demo": lambda: main(["demo", "--help"]),
    **{f"python -m stages {name}": lambda name=name: stage.main([name, "--help"]) for name in STAGES},
}


@pytest.fixture
def told(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """A command and its help."""
    with pytest.raises(SystemExit) as ended:
        COMMANDS[request.param]()
    assert ended.value.code == 0
    return request.param, capsys.readouterr().out


def examples(text: str) -> list[str]:
    """The lines of the block of examples, without what they are for."""
    block = text.partition("\nexamples:\n")[2].partition("\n\n")[0]
    return [re.split("  +", line.strip())[0] for line in block.splitlines()]


@pytest.mark.parametrize("told", COMMANDS, indirect=True)
def test_the_help_of_a_command_that_takes_settings_says_what_key_value_means(told: tuple[str, str]) -> None:
    words = " ".join(told[1].partition("\nexamples:\n")[2].split())
    assert "key=value sets one setting and wins over the file: the key is its dotted name" in words
    assert "`luss config CONFIG.yaml` lists every key" in words


@pytest.mark.parametrize("told", COMMANDS, indirect=True)
def test_the_help_of_a_command_that_takes_settings_has_examples_of_files_and_settings_that_exist(
    told: tuple[str, str],
) -> None:
    command, text = told
    found = examples(text)
    assert sum(line.startswith(command) for line in found) >= 2
    # What jobs ask for is said by stage: any of them may be named.
    keys = {
        *all_keys(RunSettings()),
        *(f"resources.{name}.{key}" for name in STAGES for key in all_keys(ResourceSettings())),
    }
    words = [word for line in found for word in line.split()]
    given = [word.partition("=")[0] for word in words if "=" in word and not word.startswith("--")]
    assert given
    assert set(given) <= keys
    assert all((ROOT / word).is_file() for word in words if word.startswith("configs/"))
    # An option in an example that the command does not have would stop who copies it.
    own = [word.partition("=")[0] for line in found if line.startswith(command) for word in line.split()]
    assert all(option in text.partition("\nexamples:\n")[0] for option in own if option.startswith("--"))
