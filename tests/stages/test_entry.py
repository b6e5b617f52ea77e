"""`python -m stages STAGE`: the one entry of single stages, and what the words of earlier versions are told."""

import subprocess
import sys
from pathlib import Path

import pytest

from stages.commands import stage
from stages.pipeline import STAGES


def python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    "words", [["-m", "stages.pretrain"], ["-u", "-m", "stages.semi_finetune", "--force"], ["-mstages.manifest"]]
)
def test_the_old_words_end_with_a_sentence_that_has_the_new_ones(words: list[str]) -> None:
    name = next(word for word in words if "stages." in word).partition(".")[2]
    done = python(*words, "configs/demo.yaml", "seed=1")
    assert done.returncode == 2
    assert done.stderr == f"error: a stage is no script: type `-m stages {name}` with the same words after it\n"
    assert not done.stdout


def test_a_module_of_the_package_may_be_named_after_the_option_m_of_another_program(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import stages, sys; print(sys.argv[1:])")
    assert python(str(script), "-m", "stages.pretrain").stdout == "['-m', 'stages.pretrain']\n"


def test_a_stage_that_does_not_exist_is_refused_with_those_that_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        stage.main(["pretrian", "configs/demo.yaml"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert all(f"'{name}'" in told for name in STAGES)


def test_every_stage_is_listed_with_what_it_makes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        stage.main(["--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert all(f"  {name}  " in told or f"  {name}\n" in told for name in STAGES)
