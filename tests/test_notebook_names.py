"""`import luss`: a dozen names, imported when they are first used."""

import importlib
import importlib.metadata
import subprocess
import sys

import pytest

import luss
import luss.labels
import stages.api


def test_importing_luss_imports_no_heavy_library() -> None:
    code = "import sys, luss; print([name for name in ('torch', 'numpy', 'PIL', 'h5py', 'omegaconf', 'timm') if name in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert process.stdout.strip() == "[]"


def test_the_label_store_and_the_data_set_are_found_where_labels_are() -> None:
    assert luss.labels.PseudoLabels is luss.PseudoLabels
    assert luss.labels.LabelStore is luss.LabelStore
    with pytest.raises(AttributeError, match="no attribute 'Labels'"):
        luss.labels.Labels  # noqa: B018


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


@pytest.mark.parametrize("name", ["run", "run_stage"])
def test_the_pipeline_comes_from_the_package_that_announces_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    announced = importlib.metadata.EntryPoint(name, f"stages.api:{name}", "luss.api")
    asked: list[dict[str, str]] = []

    def entry_points(**query: str) -> list[importlib.metadata.EntryPoint]:
        asked.append(query)
        return [announced]

    monkeypatch.delitem(vars(luss), name, raising=False)
    monkeypatch.setattr(luss, "entry_points", entry_points)
    assert getattr(luss, name) is getattr(stages.api, name)
    assert asked == [{"group": "luss.api", "name": name}]
    monkeypatch.delitem(vars(luss), name, raising=False)


def test_without_the_stages_the_error_says_where_the_pipeline_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(vars(luss), "run_stage", raising=False)
    monkeypatch.setattr(luss, "entry_points", lambda **query: [])
    with pytest.raises(AttributeError, match=r"from stages\.api import run_stage"):
        luss.run_stage  # noqa: B018
