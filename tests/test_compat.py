"""timm alone works where torchvision's operators do not load, and nothing changes where they do."""

import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from urllib.parse import quote

import pytest

from luss.compat import HOOK, mend_environment

ROOT = Path(__file__).parents[1]
_START = "import site, sys; site.addsitedir(sys.argv[1]);"


def python(folder: Path, code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh Python that has read a folder as it reads site-packages."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT)))}
    command = [sys.executable, "-c", _START + code, str(folder)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.slow
def test_timm_alone_is_imported_in_an_environment_that_was_mended(tmp_path: Path) -> None:
    mended = mend_environment(tmp_path)
    # A Python that starts says nothing and imports nothing large.
    done = python(
        tmp_path,
        "assert not {'torch', 'torchvision'} & set(sys.modules); import timm; print(timm.create_model('resnet18') is None)",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")
    if mended:
        # Whose torchvision is sound by now loses the hook.
        sound = tmp_path / "sound"
        sound.mkdir()
        (sound / "torchvision.py").touch()
        code = f"from pathlib import Path; from luss.compat import mend_environment; print(mend_environment(Path({str(tmp_path)!r})))"
        assert python(tmp_path / "none", code, sound).stdout == "False\n"
        assert not (tmp_path / HOOK).exists()


def wheel(folder: Path, name: str, version: str) -> None:
    """An empty package, as an index holds it."""
    record = f"{name}-{version}.dist-info"
    file = folder / name / f"{name}-{version}-py3-none-any.whl"
    file.parent.mkdir(parents=True)
    (file.parent / "index.html").write_text(
        f'<!DOCTYPE html><a href="{quote(file.name)}">{file.name}</a>', encoding="utf-8"
    )
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr(f"{record}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        packed.writestr(f"{record}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        packed.writestr(f"{record}/RECORD", "")


@pytest.mark.slow
def test_set_up_without_a_gpu_takes_the_builds_without_cuda_where_an_index_offers_them(tmp_path: Path) -> None:
    environment, index = tmp_path / "venv", tmp_path / "index"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    # Its pip is this environment's: installing one takes longer than all else here.
    found = importlib.util.find_spec("pip")
    assert found is not None
    assert found.origin is not None
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "pip").symlink_to(Path(found.origin).parent)

    def make(target: str) -> str:
        words = ["make", target, f"VENV={environment}", f"CPU_INDEX={index.as_uri()}", f"PYTHON={sys.executable}"]
        alone = {
            **os.environ,
            "PIP_FIND_LINKS": "",
            "PIP_CONFIG_FILE": os.devnull,
            "PYTHONPATH": str(tmp_path / "path"),
        }
        done = subprocess.run(words, cwd=ROOT, env=alone, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def installed() -> list[str]:
        return sorted(path.name for path in environment.glob("lib/*/site-packages/torch*.dist-info"))

    assert "that index does not answer, or lacks them" in make("torch-cpu")
    assert not installed()
    pinned = dict(
        re.findall(r"^(torch|torchvision)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    )
    for name, version in pinned.items():
        wheel(index, name, f"{version}+cpu")
    assert "that index does not answer" not in make("torch-cpu")
    assert installed() == [f"{name}-{version}+cpu.dist-info" for name, version in sorted(pinned.items())]
    # With a GPU they would be in the way.
    make("torch-gpu")
    assert not installed()
    make("torch-gpu")


def written(folder: Path, text: str) -> Path:
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(text, encoding="utf-8")
    return folder


LOOK = "import luss.compat, torchvision; print(torchvision.count, type(torchvision.__spec__.loader).__name__, type(torchvision.__loader__).__name__)"


def test_a_sound_torchvision_is_run_once_and_left_as_it_is(tmp_path: Path) -> None:
    done = python(tmp_path, LOOK, written(tmp_path, "count = globals().get('count', 0) + 1"))
    assert done.stdout == "1 SourceFileLoader SourceFileLoader\n", done.stderr


def test_another_error_of_torchvision_and_its_absence_are_what_they_were(tmp_path: Path) -> None:
    done = python(tmp_path, LOOK, written(tmp_path, "raise RuntimeError('no such device')"))
    assert "RuntimeError: no such device" in done.stderr
    code = "import luss.compat; import importlib.util as u; u.find_spec = lambda *a: None; import torchvision"
    (tmp_path / "torchvision" / "__init__.py").unlink()
    (tmp_path / "torchvision").rmdir()
    assert (
        "No module named"
        in python(tmp_path, f"sys.path[:] = [p for p in sys.path if 'site-packages' not in p]; {code}").stderr
    )
