"""What every format of `luss export` promises on a finished run: kills, full disks, and folders of others do no harm."""

import signal
from pathlib import Path

import pytest
from running import Fault, Launcher

from luss.export import FORMATS, load_format
from luss.export.formats import LabelFormat

# Before which rename of a file a try is killed, or finds a full disk.
PLACES = {
    "model": "model.safetensors",
    "timm": "finetuned.safetensors",
    "onnx": "model.json",
    "torch-export": "model.json",
    "png": "masks/ring",
    "palette": "masks/ring",
    "coco": "annotations.json",
    "yolo": "labels/train/ring",
    "label-studio": "tasks-000000.json",
    "cvat": "SegmentationClass/ring",
    "torch": "shard-00002.h5",
    "imagenet-s-zip": "out.zip",
    "webdataset": "train-000000.tar",
}
CARD = ("images: 60", "threshold: ", "no labels were used", "fingerprint of pseudo_labels", "to be stated by you")


def content(out: Path, *, hidden: bool = False) -> dict[str, bytes]:
    """Every file but locks, and the record of the work, which says when it was saved last."""
    files = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
    kept = (path for path in files if path.name != "export.json" and (hidden or not path.name.startswith(".")))
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in kept if not path.name.startswith(".lock")}


@pytest.mark.parametrize("name", FORMATS)
def test_an_export_that_was_killed_ends_with_the_bytes_of_one_that_was_never_stopped(
    luss: Launcher, finished: Path, tmp_path: Path, name: str
) -> None:
    out = "out.zip" if name == "imagenet-s-zip" else "out"
    words = ["export", str(finished), "--format", name, "--out"]
    killed, whole = tmp_path / "killed" / out, tmp_path / "whole" / out
    are_labels = isinstance(load_format(name), LabelFormat)
    assert luss(*words, str(killed), fault=Fault("os.rename", PLACES[name])).code == -signal.SIGKILL
    if PLACES[name] == "model.json":
        # Tracing takes long, and the graph that the killed process has written is whole.
        whole.mkdir(parents=True)
        for path in killed.glob("model.*"):
            path.rename(whole / path.name)
    if are_labels:
        full = luss(*words, str(killed), fault=Fault("os.rename", "export.json", signal=None))
        assert (full.code, "full" in full.output, "Traceback" in full.output) == (2, True, False)
        assert not (killed / "README.md").exists()
    for place in (killed, whole) if not whole.exists() else (killed,):
        outcome = luss(*words, str(place))
        assert outcome.code == 0, outcome.output
        assert str(place) in outcome.output
    # Formats that are written in one go leave the hidden file of the killed process.
    found, expected = content(killed, hidden=are_labels), content(whole, hidden=are_labels)
    assert expected
    assert {file: found[file] for file in expected} == expected
    assert found.keys() - expected.keys() <= {"model.json"}
    if are_labels:
        assert f"{name}: 60 images of train" in outcome.output
        assert all(words in (whole / "README.md").read_text(encoding="utf-8") for words in CARD)


@pytest.fixture(scope="module")
def others(luss: Launcher, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of labels, and one of a model."""
    folder = tmp_path_factory.mktemp("others")
    for name in ("palette", "model"):
        assert luss("export", str(finished), "--format", name, "--out", str(folder / name)).code == 0
    return {name: folder / name for name in ("palette", "model")}


# The graphs are single files that may lie beside anything.
@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("onnx", "torch-export")])
def test_a_folder_of_another_format_is_refused_and_left_as_it_was(
    luss: Launcher, finished: Path, others: dict[str, Path], name: str
) -> None:
    for other, folder in others.items():
        before = content(folder)
        outcome = luss("export", str(finished), "--format", name, "--out", str(folder))
        assert (outcome.code, "Traceback" in outcome.output) == (0 if other == name else 2, False)
        assert content(folder) == before
