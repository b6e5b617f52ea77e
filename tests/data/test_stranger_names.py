"""A run folder or a label store that somebody else made is input from a stranger: its names may not lead out of their folder."""

from pathlib import Path

import pytest
from PIL import Image

from luss.data.manifest import Manifest, build_manifest
from luss.data.names import inside
from luss.data.skipped import SkippedFiles
from luss.errors import LussError


@pytest.mark.parametrize("name", ["../x.jpg", "a/../../x.jpg", "/etc/x.jpg", "..", "a/.."])
def test_names_that_lead_out_of_their_folder_are_refused(name: str) -> None:
    with pytest.raises(LussError, match="leads out of its folder"):
        inside(name, "labels.h5")


@pytest.mark.parametrize("name", ["a/b.jpg", "a..b.jpg", "..a/b.jpg", "a/...jpg"])
def test_names_with_dots_that_lead_nowhere_are_taken(name: str) -> None:
    assert inside(name, "labels.h5") == name


def test_a_manifest_with_such_a_name_gives_no_path(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "aaaaaa.png")
    build_manifest(tmp_path / "images", tmp_path, "train", skipped=SkippedFiles(tmp_path / "skipped.csv"))
    table = tmp_path / "train.tsv"
    table.write_bytes(table.read_bytes().replace(b"aaaaaa.png", b"../../.png"))
    manifest = Manifest.open(tmp_path, "train")
    with pytest.raises(LussError, match="leads out of its folder"):
        manifest.path(0)
    with pytest.raises(LussError, match="leads out of its folder"):
        list(manifest.names())
