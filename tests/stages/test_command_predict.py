"""`luss predict` over folders and lists: every format, resume after a kill, and what it says about bad input."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from running import Fault, Launcher

from luss.data.imagenet_s import read_mask
from luss.export import PREDICTED
from luss.labels.palette import palette
from luss.segmenter import Segmenter


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, shapes_folder: Path) -> Path:
    """Pictures of several sizes and formats in folders, one of them broken, and a file that is no image."""
    folder = tmp_path_factory.mktemp("predict") / "photos"
    (folder / "deep" / "er").mkdir(parents=True)
    pictures = sorted((shapes_folder / "validation").rglob("*.jpg"))[:6]
    for picture, name in zip(
        pictures, ["a.jpg", "b.png", "deep/c.jpg", "deep/er/d e.jpg", "deep/a.jpg", "a.png"], strict=True
    ):
        with Image.open(picture) as image:
            wide = 90 if name == "b.png" else image.width
            image.resize((wide, image.height)).save(folder / name)
    (folder / "deep" / "broken.jpg").write_bytes((folder / "a.jpg").read_bytes()[:200])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("not an image")
    return folder


READABLE = ["a.jpg", "a.png", "b.png", "deep/a.jpg", "deep/c.jpg", "deep/er/d e.jpg"]
# x.jpg and x.png in one folder would share x.png.
MASKS = ["a.jpg.png", "a.png.png", "b.png", "deep/a.png", "deep/c.png", "deep/er/d e.png"]


@pytest.fixture(scope="module")
def expected(finished: Path, photos: Path) -> list[NDArray[np.uint16]]:
    """What the model says about each readable picture."""
    return Segmenter.load(finished, device="cpu")([photos / name for name in READABLE]).label_maps


def files(folder: Path) -> dict[str, bytes]:
    """Results, without the log and what is only for the next call."""
    kept = ("masks", "overlays")
    found = [path for name in kept for path in (folder / name).rglob("*") if path.is_file()]
    found += [path for name in ("summary.json", "coco.json", "skipped.csv") if (path := folder / name).is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_masks_keep_the_names_and_sizes_of_a_folder_with_folders(
    luss: Launcher, finished: Path, photos: Path, expected: list[Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    outcome = luss("predict", str(finished), str(photos), "--out", str(out))
    assert outcome.code == 0, outcome.output
    assert sorted(path.relative_to(out / "masks").as_posix() for path in (out / "masks").rglob("*.png")) == sorted(
        MASKS
    )
    for name, wanted in zip(MASKS, expected, strict=True):
        assert np.array_equal(read_mask(out / "masks" / name), wanted)
    assert "6 images segmented (" in outcome.output
    assert "images/s" in outcome.output
    assert not list(out.glob("**/.*.partial"))
    known = {"export.json", "log", "manifest", "masks", "skipped.csv", "summary.json"}
    assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == known


def test_the_table_adds_up_the_pixels_of_every_cluster(
    luss: Launcher, finished: Path, photos: Path, expected: list[Any], tmp_path: Path
) -> None:
    (tmp_path / "names.json").write_text(json.dumps({"names": {str(i): f"thing {i}" for i in range(1, 10)}}))
    arguments = ["predict", str(finished), str(photos), "--out", str(tmp_path / "out")]
    outcome = luss(*arguments, "--names", str(tmp_path / "names.json"))
    summary = read_json(tmp_path / "out" / "summary.json")
    pixels = np.sum([np.bincount(labels.ravel(), minlength=11) for labels in expected], axis=0)
    images = np.sum([np.bincount(labels.ravel(), minlength=11) > 0 for labels in expected], axis=0)
    assert summary["images"] == 6
    assert [entry["pixels"] for entry in summary["classes"]] == pixels.tolist()
    assert [entry["images"] for entry in summary["classes"]] == images.tolist()
    names = [entry["name"] for entry in summary["classes"]]
    assert names == ["background", *(f"thing {i}" for i in range(1, 10)), "cluster 10"]
    for cluster in np.flatnonzero(pixels):
        assert f"{pixels[cluster]:,}" in outcome.output
        assert names[cluster] in outcome.output


def test_names_and_paths_that_look_like_markup_are_shown_as_they_are(
    luss: Launcher, finished: Path, photos: Path, tmp_path: Path
) -> None:
    # A closing tag that was never opened ends rich's own console with an error; an opening one disappears.
    images, out = tmp_path / "p[/dog]" / "[red]", tmp_path / "\x1b[31mout[bold]"
    images.mkdir(parents=True)
    shutil.copyfile(photos / "a.jpg", images / "a.jpg")
    (tmp_path / "names.json").write_text(json.dumps({str(i): f"[/dog] {i}" for i in range(1, 11)}))
    outcome = luss("predict", str(finished), str(images), "--out", str(out), "--names", str(tmp_path / "names.json"))
    assert outcome.code == 0, outcome.output
    assert f"listing the images of {images}\n" in outcome.output
    assert "[/dog] " in outcome.output
    assert "\\x1b[31mout[bold]\n" in outcome.output
    assert "\x1b" not in outcome.output


def test_what_could_not_be_read_is_listed_and_counted(
    luss: Launcher, finished: Path, photos: Path, tmp_path: Path
) -> None:
    outcome = luss("predict", str(finished), str(photos), "--out", str(tmp_path / "out"))
    with open(tmp_path / "out" / "skipped.csv", newline="", encoding="utf-8") as file:
        rows = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert set(rows) == {str(photos / "deep" / "broken.jpg"), str(photos / "empty.jpg")}
    assert rows[str(photos / "empty.jpg")] == "empty file"
    assert "2 could not be read, see" in outcome.output


def test_what_is_done_is_left_alone_and_new_images_are_added(
    luss: Launcher, finished: Path, photos: Path, tmp_path: Path
) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    arguments = ["predict", str(finished), str(tmp_path / "photos"), "--out", str(tmp_path / "out")]
    luss(*arguments)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "masks").rglob("*.png")}
    shutil.copy(photos / "b.png", tmp_path / "photos" / "new.png")
    outcome = luss(*arguments)
    assert "1 images segmented (" in outcome.output
    assert "6 were done before" in outcome.output
    assert (tmp_path / "out" / "masks" / "new.png").is_file()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert read_json(tmp_path / "out" / "summary.json")["images"] == 7


@pytest.mark.parametrize("format", PREDICTED)
def test_a_killed_pass_that_is_run_again_ends_with_the_files_of_one_that_was_never_killed(
    luss: Launcher, finished: Path, photos: Path, tmp_path: Path, format: str
) -> None:
    options = ["--format", format, "--overlay", "--batch-size", "2", "--workers", "0"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert luss("predict", str(finished), str(photos), "--out", str(whole), *options).code == 0
    # An overlay, where there are no masks of their own.
    fault = Fault("os.rename", "masks/deep" if format in ("png", "palette", "npz") else ".jpg", count=2)
    assert luss("predict", str(finished), str(photos), "--out", str(killed), *options, fault=fault).code == -9
    assert not (killed / "summary.json").exists()
    outcome = luss("predict", str(finished), str(photos), "--out", str(killed), *options)
    assert outcome.code == 0
    assert files(killed) == files(whole)


def test_a_full_disk_is_told_and_the_same_command_continues(
    luss: Launcher, finished: Path, photos: Path, tmp_path: Path
) -> None:
    arguments = ["predict", str(finished), str(photos), "--out", str(tmp_path / "out")]
    outcome = luss(*arguments, fault=Fault("open", "masks/deep", signal=None))
    assert outcome.code == 2
    assert "is full: free some space and run the same command again" in outcome.output
    assert "Traceback" not in outcome.output
    assert luss(*arguments).code == 0
    masks = tmp_path / "out" / "masks"
    assert sorted(path.relative_to(masks).as_posix() for path in masks.rglob("*.png")) == sorted(MASKS)


def test_palette_pictures_hold_the_ids_in_the_colours_of_the_palette(
    luss: Launcher, finished: Path, photos: Path, expected: list[Any], tmp_path: Path
) -> None:
    assert luss("predict", str(finished), str(photos), "--out", str(tmp_path / "out"), "--format", "palette").code == 0
    with Image.open(tmp_path / "out" / "masks" / "deep" / "a.png") as mask:
        assert mask.mode == "P"
        assert np.array_equal(np.asarray(mask), expected[3])
        assert np.array_equal(np.asarray(mask.convert("RGB")), palette(256)[expected[3]])


def test_npz_holds_labels_and_confidence(
    luss: Launcher, finished: Path, photos: Path, expected: list[Any], tmp_path: Path
) -> None:
    assert luss("predict", str(finished), str(photos), "--out", str(tmp_path / "out"), "--format", "npz").code == 0
    wanted = Segmenter.load(finished, device="cpu")(photos / "a.jpg").confidence[0]
    with np.load(tmp_path / "out" / "masks" / "a.jpg.npz", allow_pickle=False) as content:
        assert np.array_equal(content["labels"], expected[0])
        assert content["confidence"].dtype == np.float16
        assert np.allclose(content["confidence"], wanted, atol=1e-3)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools and NumPy 2
def test_coco_is_read_back_by_pycocotools(
    luss: Launcher, finished: Path, photos: Path, expected: list[Any], tmp_path: Path
) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    (tmp_path / "names.json").write_text('{"3": "dog"}')
    arguments = ["predict", str(finished), str(photos), "--out", str(tmp_path / "out"), "--format", "coco"]
    assert luss(*arguments).code == 0
    # Names may change without a new pass.
    outcome = luss(*arguments, "--names", str(tmp_path / "names.json"))
    assert "0 images segmented, 6 were done before" in outcome.output
    data = coco.COCO(str(tmp_path / "out" / "coco.json"))
    assert {entry["name"] for entry in data.loadCats(3)} == {"dog"}
    images = {entry["file_name"]: entry for entry in data.imgs.values()}
    assert sorted(images) == READABLE
    for name, wanted in zip(READABLE, expected, strict=True):
        found = np.zeros_like(wanted)
        for annotation in data.loadAnns(data.getAnnIds(images[name]["id"])):
            found[data.annToMask(annotation) == 1] = annotation["category_id"]
            assert annotation["area"] == int((wanted == annotation["category_id"]).sum())
        assert np.array_equal(found, wanted)
    assert not (tmp_path / "out" / "masks").exists()


def test_overlays_can_be_added_later(luss: Launcher, finished: Path, photos: Path, tmp_path: Path) -> None:
    arguments = ["predict", str(finished), str(photos), "--out", str(tmp_path / "out")]
    luss(*arguments)
    assert not (tmp_path / "out" / "overlays").exists()
    assert luss(*arguments, "--overlay").code == 0
    with Image.open(tmp_path / "out" / "overlays" / "b.jpg") as picture, Image.open(photos / "b.png") as original:
        assert picture.size == original.size
    assert len(list((tmp_path / "out" / "overlays").rglob("*.jpg"))) == 6


def test_unsure_pixels_become_background(luss: Launcher, finished: Path, photos: Path, tmp_path: Path) -> None:
    segmenter = Segmenter.load(finished, device="cpu")
    free = segmenter(photos / "a.jpg")
    threshold = float(np.median(free.confidence[0][free.label_maps[0] > 0])) if free.label_maps[0].any() else 0.5
    out = tmp_path / "out"
    assert (
        luss("predict", str(finished), str(photos), "--out", str(out), "--min-confidence", f"{threshold:.6f}").code == 0
    )
    wanted = segmenter(photos / "a.jpg", min_confidence=round(threshold, 6)).label_maps[0]
    assert np.array_equal(read_mask(out / "masks" / "a.jpg.png"), wanted)


def test_a_list_of_images_may_name_any_files(luss: Launcher, finished: Path, photos: Path, tmp_path: Path) -> None:
    lines = [photos / "deep" / "er" / "d e.jpg", photos / "b.png", photos / "gone.jpg", photos / "b.png"]
    (tmp_path / "list.txt").write_text("".join(f"{line}\n" for line in lines))
    outcome = luss("predict", str(finished), str(tmp_path / "list.txt"), "--out", str(tmp_path / "out"))
    assert outcome.code == 0, outcome.output
    masks = tmp_path / "out" / "masks"
    assert sorted(path.relative_to(masks).as_posix() for path in masks.rglob("*.png")) == ["b.png", "deep/er/d e.png"]
    assert f"{photos / 'gone.jpg'},no such file" in (tmp_path / "out" / "skipped.csv").read_text()


def test_a_single_image_is_segmented(luss: Launcher, finished: Path, photos: Path, tmp_path: Path) -> None:
    assert luss("predict", str(finished), str(photos / "b.png"), "--out", str(tmp_path / "out")).code == 0
    assert [path.name for path in (tmp_path / "out" / "masks").iterdir()] == ["b.png"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--format", "npz"], 'made with format="png", now it is "npz"'),
        (["--min-confidence", "0.5"], "made with min_confidence=0.0, now it is 0.5"),
    ],
)
def test_results_of_other_settings_are_not_mixed(
    luss: Launcher, finished: Path, photos: Path, tmp_path: Path, words: list[str], named: str
) -> None:
    arguments = ["predict", str(finished), str(photos / "b.png"), "--out", str(tmp_path / "out")]
    luss(*arguments)
    before = files(tmp_path / "out")
    outcome = luss(*arguments, *words)
    assert outcome.code == 2
    assert named in outcome.output
    assert "give another --out" in outcome.output
    assert files(tmp_path / "out") == before


def test_results_of_another_model_are_not_mixed(luss: Launcher, finished: Path, photos: Path, tmp_path: Path) -> None:
    arguments = [str(photos / "b.png"), "--out", str(tmp_path / "out")]
    luss("predict", str(finished), *arguments)
    other = tmp_path / "model"
    shutil.copytree(finished / "finetune", other)
    config = read_json(other / "config.json")
    (other / "config.json").write_text(json.dumps({**config, "decoding": {"short_side": 48}}))
    outcome = luss("predict", str(other), *arguments)
    assert outcome.code == 2
    assert "made with" in outcome.output


@pytest.mark.parametrize(
    ("images", "named"),
    [
        ("nowhere", "nowhere does not exist: give a folder of images, a list of them (.txt), or images"),
        ("notes.md", "is not a folder of images, a list of them (.txt), or an image"),
        ("nothing", "holds no images"),
        ("broken", "none of the 1 image files below"),
        ("empty.txt", "lists no images"),
    ],
)
def test_images_that_are_not_there_are_told(
    luss: Launcher, finished: Path, tmp_path: Path, images: str, named: str
) -> None:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.jpg").write_bytes(b"")
    for name in ("notes.md", "empty.txt"):
        (tmp_path / name).write_text("")
    outcome = luss("predict", str(finished), str(tmp_path / images), "--out", str(tmp_path / "out"))
    assert outcome.code == 2
    assert named in outcome.output
    assert "Traceback" not in outcome.output


def tampered(model: Path) -> None:
    path = model / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (tampered, "its sha256 differs"),
        (lambda model: (model / "model.safetensors").unlink(), "model.safetensors does not exist"),
        (lambda model: (model / "config.json").unlink(), "config.json does not exist"),
        (lambda model: (model / "config.json").write_text("{"), "is not valid JSON"),
        (lambda model: shutil.rmtree(model), "is not a folder"),
    ],
)
def test_a_spoilt_model_is_told_and_nothing_is_written(
    luss: Launcher, finished: Path, photos: Path, tmp_path: Path, spoil: Any, named: str
) -> None:
    shutil.copytree(finished / "finetune", tmp_path / "model")
    spoil(tmp_path / "model")
    outcome = luss("predict", str(tmp_path / "model"), str(photos), "--out", str(tmp_path / "out"))
    assert outcome.code == 2
    assert named in outcome.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--min-confidence", "2"], "--min-confidence is 2.0"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--workers", "-1"], "--workers is -1"),
        (["--device", "cuda:9"], "device is 'cuda:9'"),
        (["--names", "NAMES"], "names 11, 99, but the clusters of this model have the ids 1 to 10"),
        (["--out", "PHOTOS/masks"], "lies in the folder of images"),
        (["--out", "FULL"], "holds other files"),
    ],
)
def test_wrong_arguments_are_told(
    luss: Launcher, finished: Path, photos: Path, tmp_path: Path, words: list[str], named: str
) -> None:
    (tmp_path / "names.json").write_text('{"11": "dog", "99": "cat", "1": "fish"}')
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("dear")
    places = {
        "NAMES": str(tmp_path / "names.json"),
        "PHOTOS/masks": str(photos / "masks"),
        "FULL": str(tmp_path / "full"),
    }
    given = [places.get(word, word) for word in words]
    outcome = luss("predict", str(finished), str(photos), "--out", str(tmp_path / "out"), *given)
    assert outcome.code == 2
    assert named in outcome.output
    assert not (photos / "masks").exists()
    assert (tmp_path / "full" / "thesis.tex").read_text() == "dear"


def test_a_folder_of_an_earlier_version_is_left_alone(
    luss: Launcher, finished: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions.json").write_text("{}")
    outcome = luss("predict", str(finished), str(photos), "--out", str(tmp_path / "out"))
    assert outcome.code == 2
    assert "was written by an earlier version, which this one cannot continue: give another --out" in outcome.output
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name[0] != "."] == ["predictions.json"]


def test_too_many_clusters_for_a_palette_are_told_before_anything_is_written(
    luss: Launcher, photos: Path, tmp_path: Path
) -> None:
    from luss.models.build import build_backbone
    from luss.models.io import save_segmenter
    from luss.models.segmenter import SegmentationNetwork

    save_segmenter(tmp_path / "model", SegmentationNetwork(build_backbone("test_resnet"), 300), num_clusters=300)
    arguments = ["predict", str(tmp_path / "model"), str(photos), "--out", str(tmp_path / "out")]
    outcome = luss(*arguments, "--format", "palette")
    assert outcome.code == 2
    assert "use the format png" in outcome.output
    assert not (tmp_path / "out").exists()


def test_images_and_folders_may_be_named_together_as_a_shell_does(
    luss: Launcher, finished: Path, photos: Path, expected: list[Any], tmp_path: Path
) -> None:
    named = [str(photos / name) for name in ("a.jpg", "b.png", "notes.txt", "deep")]
    outcome = luss("predict", str(finished), *named, "--out", str(tmp_path / "out"))
    assert outcome.code == 0, outcome.output
    assert "5 images segmented" in outcome.output
    assert f"listing the images of {photos}/a.jpg and 3 more" in outcome.output
    for name, index in (("a.png", 0), ("deep/er/d e.png", 5)):
        assert np.array_equal(read_mask(tmp_path / "out" / "masks" / name), expected[index])
    # Options may stand between them.
    again = luss("predict", str(finished), named[0], "--out", str(tmp_path / "out"), *named[1:])
    assert "0 images segmented, 5 were done before" in again.output


def test_images_whose_masks_would_meet_have_a_mask_each_and_it_is_said(
    luss: Launcher, finished: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("x.jpg", "x.png", "x.jpg.jpg", "X.JPG", "y.jpg"):
        shutil.copy(photos / "a.jpg", tmp_path / "photos" / name)
    outcome = luss("predict", str(finished), str(tmp_path / "photos"), "--out", str(tmp_path / "out"), "--overlay")
    assert "5 images segmented" in outcome.output
    assert "4 images would share the name of a mask" in outcome.output
    for folder in ("masks", "overlays"):
        names = [path.name.lower() for path in (tmp_path / "out" / folder).iterdir()]
        assert len(set(names)) == 5
        assert "y.png" in names or "y.jpg" in names


def test_pictures_that_are_not_read_are_said_with_their_endings_and_results_of_luss_are_left_out(
    luss: Launcher, finished: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos" / "masks").mkdir(parents=True)
    (tmp_path / "photos" / "masks" / "export.json").touch()
    for name in ("a.jpg", "b.jfif", "c.gif", "masks/a.jpg", "c.cr2"):
        shutil.copy(photos / "a.png" if name == "c.cr2" else photos / "a.jpg", tmp_path / "photos" / name)
    outcome = luss("predict", str(finished), str(tmp_path / "photos"), "--out", str(tmp_path / "out"))
    output = " ".join(outcome.output.split())
    assert "3 images segmented" in output
    assert "1 pictures are in formats that are not read here and are left out (.cr2 1)" in output
    assert f"luss has written what lies there: {tmp_path}/photos/masks" in output
    assert "c.cr2" in (tmp_path / "out" / "skipped.csv").read_text(encoding="utf-8")
