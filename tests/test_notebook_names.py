"""`import luss`: a dozen names, imported when they are first used."""

import importlib
import subprocess
import sys

import pytest

import luss


def test_importing_luss_imports_no_heavy_library() -> None:
    code = "import sys, luss; print([name for name in ('torch', 'numpy', 'PIL', 'h5py', 'omegaconf', 'timm') if name in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert process.stdout.strip() == "[]"


@pytest.mark.parametrize("name", luss.__all__)
def test_every_public_name_can_be_imported_and_is_listed(name: str) -> None:
    assert getattr(luss, name) is getattr(importlib.import_module(luss._HOMES[name][0]), luss._HOMES[name][1])
    assert name in dir(luss)
    assert name in (luss.__doc__ or "")


def test_the_names_are_a_dozen_and_all_have_a_home() -> None:
    assert set(luss.__all__) == set(luss._HOMES)
    assert len(luss.__all__) == 12


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'segmenters'"):
        luss.segmenters  # noqa: B018
