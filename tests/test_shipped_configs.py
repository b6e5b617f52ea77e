"""The configurations that luss brings."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from test_config import MINIMAL, refusal

from luss.config import load_config, shipped_configs
from luss.methods import METHODS
from stages.cli import main

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
LEARNERS = sorted((Path(__file__).parents[1] / "configs" / "methods").glob("*.yaml"))
LAPTOP, SWAV = (next(path for path in (*CONFIGS, *LEARNERS) if path.stem == name) for name in ("objects27_cpu", "swav"))
S50_LEARNERS = sorted((Path(__file__).parents[1] / "configs" / "imagenet_s50").glob("*.yaml"))
ALL_LEARNERS = [path for path in (*LEARNERS, *S50_LEARNERS) if path.stem != "untrained"]


def test_a_shipped_configuration_is_found_by_its_name_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("objects27_cpu", "objects27_cpu.yaml", "configs/objects27_cpu.yaml", "configs/objects27_cpu"):
        assert load_config(name).name == "objects27_cpu"
    for name in ("methods/swav", "configs/methods/swav.yaml"):
        assert load_config("objects27_cpu", [name]).pretrain.method == load_config(LAPTOP, [str(SWAV)]).pretrain.method
    assert "the configuration objects27_cup does not exist: did you mean objects27_cpu?" in refusal(
        Path("objects27_cup")
    )
    assert "did you mean methods/swav?" in refusal(Path("demo"), "methods/swaf")
    assert "`luss configs` lists those" in refusal(Path("zzzz"))


def test_a_file_in_the_working_folder_wins_over_a_shipped_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # The folder of outputs of that name is no file.
    (tmp_path / "objects27").mkdir()
    assert load_config("objects27").name == "objects27"
    (tmp_path / "demo.yaml").write_text(MINIMAL, encoding="utf-8")
    assert load_config("demo").name == load_config("demo.yaml").name == "trial"
    assert load_config("configs/demo.yaml").name == "demo"


def test_every_shipped_configuration_says_in_its_first_line_what_it_is_for() -> None:
    for path in shipped_configs().values():
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        assert first.startswith("# "), path
        assert first.endswith("."), path
    assert {path.resolve() for path in shipped_configs().values()} == {*CONFIGS, *LEARNERS, *S50_LEARNERS}


def test_a_copy_of_a_configuration_never_takes_the_place_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "methods/swav"]) == 0
    assert Path("swav.yaml").read_bytes() == SWAV.read_bytes()
    assert main(["init", "demo", "swav.yaml"]) == 2
    assert "swav.yaml is there already" in capsys.readouterr().err
    assert Path("swav.yaml").read_bytes() == SWAV.read_bytes()
    assert main(["init", "dmeo"]) == 2
    assert "did you mean demo?" in capsys.readouterr().err


def test_there_are_shipped_configurations() -> None:
    assert "demo.yaml" in [path.name for path in CONFIGS]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_loads(path: Path) -> None:
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    # A file for data that everybody keeps elsewhere may leave the root to a word.
    words = [] if "root" in content.get("data", {}) else ["data.root=photos"]
    assert load_config(path, words).name == content["name"]


def test_the_network_as_it_starts_is_shipped_beside_the_learners() -> None:
    base = next(each for each in CONFIGS if each.stem == "objects27_cpu")
    path = next(each for each in LEARNERS if each.stem == "untrained")
    assert load_config(base, [str(path)]) == load_config(base, ["pretrain.epochs=0"])


@pytest.mark.parametrize("path", ALL_LEARNERS, ids=lambda path: f"{path.parent.stem}-{path.stem}")
def test_every_shipped_learner_is_laid_over_a_run_and_changes_how_it_is_trained_alone(path: Path) -> None:
    base = next(each for each in CONFIGS if each.stem == ("objects27_cpu" if path in LEARNERS else path.parent.name))
    run, found = load_config(base), load_config(base, [str(path)])
    assert found.pretrain.method.name == path.stem
    # Compared at one length, batch and network.
    for key in ("epochs", "batch_size", "precision"):
        assert getattr(found.pretrain, key) == getattr(run.pretrain, key)
    assert found.pretrain.backbone.name == run.pretrain.backbone.name
    run.pretrain = found.pretrain
    assert found == run


def test_every_learner_has_both_configurations() -> None:
    assert {path.stem for path in LEARNERS} == set(METHODS) | {"untrained"}
    # imagenet_s50.yaml itself is PASS_s's.
    assert {path.stem for path in S50_LEARNERS} == set(METHODS) - {"pass_s"}


def test_the_learner_of_the_configuration_for_laptops_is_shipped_alone_too() -> None:
    base = next(each for each in CONFIGS if each.stem == "objects27_cpu")
    method = next(each for each in LEARNERS if each.stem == "pass_s")
    assert load_config(base, [str(method)]) == load_config(base)
