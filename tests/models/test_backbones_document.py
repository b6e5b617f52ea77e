"""The table of docs/backbones.md is what the code gives."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def script() -> ModuleType:
    specification = importlib.util.spec_from_file_location("table", ROOT / "benchmarks" / "backbones.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


TABLE: Any = script()
DOCUMENTED = {
    cells[0]: cells
    for line in (ROOT / "docs" / "backbones.md").read_text().splitlines()
    if line.startswith("| ")
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}
# Those that are made fast; the script makes all.
TRIED = ("ResNet", "RegNet", "HRNet", "ConvNeXt", "EfficientViT (MSRA)", "CoAtNet", "LeViT", "ViT, DeiT", "DINOv3")


def test_every_family_of_the_script_is_documented_and_no_other() -> None:
    assert list(DOCUMENTED) == ["family", *TABLE.FAMILIES]
    assert tuple(DOCUMENTED["family"]) == (*TABLE.COLUMNS, "ONNX")


@pytest.mark.parametrize("family", TRIED)
def test_a_family_does_what_the_document_says(family: str) -> None:
    assert TABLE.row(family, TABLE.FAMILIES[family]) == DOCUMENTED[family][:-1]


@pytest.mark.parametrize("family", ["ViT, DeiT"])
def test_a_family_is_traced_as_the_document_says(family: str) -> None:
    assert TABLE.onnx(TABLE.FAMILIES[family]) == DOCUMENTED[family][-1]
