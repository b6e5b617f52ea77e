"""What is installed from a wheel works without the repository, in any folder."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow

# Several commands in one process: Python and its libraries start once.
_COMMANDS = """
import sys
from stages.cli import main
for words in (["configs"], ["config", "objects27_cpu", "methods/swav", "data.root=photos"], ["demo", "--dry-run"],
              ["init", "objects27_cpu", "mine.yaml"], ["run", "mine", "data.root=.", "--dry-run"]):
    print("####", *words, flush=True)
    if code := main(words):
        sys.exit(code)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what a wheel installs, and its record of what that is."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("luss", "stages", "configs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools.build_meta import build_wheel; build_wheel('wheels')"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=source, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = source.glob("wheels/*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder)
    return folder


def test_a_wheel_holds_every_configuration_and_the_page_of_the_report(installed: Path) -> None:
    shipped = {path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml")}
    assert {path.relative_to(installed / "luss") for path in (installed / "luss" / "configs").rglob("*.*")} == shipped
    pages = {path.name for path in (ROOT / "luss" / "report" / "page").iterdir() if path.is_file()}
    assert {path.name for path in (installed / "luss" / "report" / "page").iterdir()} >= pages
    assert "luss = stages.cli:main" in next(installed.glob("*.dist-info/entry_points.txt")).read_text(encoding="utf-8")


def test_configurations_are_found_from_any_folder_and_results_stay_in_it(installed: Path, tmp_path: Path) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _COMMANDS],
        cwd=photographs,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    configs, swav, demo, init, mine = done.stdout.split("#### ")[1:]
    assert "objects27_cpu  " in configs
    assert "methods/swav " in configs
    assert "name: swav" in swav
    assert "outputs/demo-floor" in demo
    assert "mine.yaml holds the settings of objects27_cpu" in init
    assert "outputs/objects27_cpu" in mine
    # Nothing was made but what was asked for.
    assert [path.name for path in photographs.iterdir()] == ["mine.yaml"]
    assert (photographs / "mine.yaml").read_bytes() == (ROOT / "configs" / "objects27_cpu.yaml").read_bytes()
