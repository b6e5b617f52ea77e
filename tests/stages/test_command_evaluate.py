"""`luss evaluate` from the command line: numbers, files, and what is refused before anything is counted."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from running import Launcher, Outcome

from luss.data.imagenet_s import write_mask
from luss.errors import LussError
from luss.labels.writer import LabelRecord, LabelWriter
from stages.commands.evaluate import parse_thresholds

GOLDEN = Path(__file__).parents[1] / "golden" / "evaluation5"


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden maps as the files that a method would leave; tests must not change them."""
    folder = tmp_path_factory.mktemp("golden")
    with np.load(GOLDEN / "maps.npz", allow_pickle=False) as maps:
        for key in maps.files:
            kind, _, name = key.partition(":")
            target = folder / kind / name.replace("|", "/")
            if kind == "attention":
                target.parent.mkdir(parents=True, exist_ok=True)
                np.save(f"{target}.npy", maps["attention_levels"][maps[key]])
            elif kind in ("prediction", "unfiltered", "mask"):
                write_mask(target.with_name(f"{target.name}.png"), maps[key])
    assert len(list(folder.glob("mask/*/*.png"))) == len(list(folder.glob("attention/*/*.npy"))) == 20
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two images of two categories, predicted perfectly but for the numbers of the clusters."""
    mask = np.zeros((20, 30), np.uint16)
    mask[5:15, 5:20] = 1
    for name, ids in (("cat/a", mask), ("dog/b", mask * 2)):
        write_mask(tmp_path / "masks" / f"{name}.png", ids)
        write_mask(tmp_path / "predictions" / f"{name}.png", np.array([0, 2, 1])[ids])
    return tmp_path


def evaluate(luss: Launcher, folder: Path, *words: str, code: int = 0, num_classes: int = 2) -> Outcome:
    outcome = luss(
        "evaluate", str(folder / "predictions"), str(folder / "masks"), "--num-classes", str(num_classes), *words
    )
    assert outcome.code == code, outcome.output
    return outcome


def published(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    return content


def assert_agrees(found: dict[str, Any], expected: dict[str, Any]) -> None:
    numbers = {
        "mIoU": found["miou"],
        "mBIoU": found["boundary_miou"],
        "Acc": found["image_accuracy"],
        "FMeasure": found["f_measure"],
        **found["groups"]["miou"],
        **{f"B{group}": value for group, value in found["groups"]["boundary_miou"].items()},
    }
    assert numbers == pytest.approx({key: expected[key] for key in numbers}, abs=1e-3)
    assert found["ious"] == pytest.approx(expected["IoUs"], abs=1e-3)
    assert found["num_images"] == 20


@pytest.mark.parametrize(("name", "matching"), [("pass", "hungarian"), ("toolkit", "hungarian"), ("toolkit_none", "identity")])  # fmt: skip
def test_the_json_of_the_golden_folders_agrees_with_the_published_evaluators(
    luss: Launcher, golden: Path, tmp_path: Path, name: str, matching: str
) -> None:
    words = ["--num-classes", "5", "--matching", matching, "--json", str(tmp_path / "new" / "metrics.json")]
    outcome = luss("evaluate", str(golden / "prediction"), str(golden / "mask"), *words)
    assert outcome.code == 0, outcome.output
    found = json.loads((tmp_path / "new" / "metrics.json").read_text(encoding="utf-8"))
    assert list(found) == [
        "miou", "boundary_miou", "image_accuracy", "f_measure", "ious", "boundary_ious", "groups", "matching", "num_images",
    ]  # fmt: skip
    assert_agrees(found, published(name))
    assert f"{found['miou']:.2f}" in outcome.output
    assert f"{found['groups']['boundary_miou']['ML']:.2f}" in outcome.output


def test_the_threshold_search_on_the_golden_folders_agrees_with_the_published_one(
    luss: Launcher, golden: Path, tmp_path: Path
) -> None:
    words = ["--attention", str(golden / "attention"), "--thresholds", "0:0.8:0.01", "--json", str(tmp_path / "m.json")]
    words += ["--save-matching", str(tmp_path / "match.json")]
    outcome = luss("evaluate", str(golden / "unfiltered"), str(golden / "mask"), "--num-classes", "5", *words)
    assert outcome.code == 0, outcome.output
    found, expected = json.loads((tmp_path / "m.json").read_text(encoding="utf-8")), published("curve")
    assert_agrees(found, expected)
    assert found["threshold"] == expected["threshold"]
    assert [point["threshold"] for point in found["curve"]] == [k / 100 for k in range(81)]
    assert max(point["miou"] for point in found["curve"]) == pytest.approx(found["miou"])
    assert json.loads((tmp_path / "match.json").read_text(encoding="utf-8")) == {"0": 0, **expected["match"]}
    assert "attention threshold 0.4" in outcome.output


def test_a_saved_matching_is_applied_to_other_predictions(luss: Launcher, small: Path) -> None:
    match = small / "match.json"
    evaluate(luss, small, "--save-matching", str(match))
    assert json.loads(match.read_text(encoding="utf-8")) == {"0": 0, "1": 2, "2": 1}
    evaluate(luss, small, "--matching", str(match), "--json", str(small / "matched.json"))
    evaluate(luss, small, "--matching", "identity", "--json", str(small / "identity.json"))
    matched, unmatched = (json.loads((small / f"{name}.json").read_text(encoding="utf-8")) for name in ("matched", "identity"))  # fmt: skip
    assert matched["miou"] == pytest.approx(100)
    assert unmatched["ious"][1:] == [0, 0]


def test_the_csv_has_a_row_a_category_with_its_name_and_summary_rows(luss: Launcher, small: Path) -> None:
    evaluate(luss, small, "--csv", str(small / "metrics.csv"), "--json", str(small / "metrics.json"))
    metrics = json.loads((small / "metrics.json").read_text(encoding="utf-8"))
    with open(small / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    classes = [row for row in rows if row["kind"] == "class"]
    assert [(row["id"], row["name"], row["cluster"]) for row in classes] == [
        ("0", "background", "0"),
        ("1", "cat", "2"),
        ("2", "dog", "1"),
    ]
    assert [float(row["iou"]) for row in classes] == pytest.approx(metrics["ious"], abs=1e-5)
    assert [float(row["boundary_iou"]) for row in classes] == pytest.approx(metrics["boundary_ious"], abs=1e-5)
    means = {row["name"]: row for row in rows if row["kind"] == "mean"}
    assert list(means) == ["all", "S", "MS", "ML", "L"]
    assert float(means["all"]["boundary_iou"]) == pytest.approx(metrics["boundary_miou"], abs=1e-5)
    assert float(means["MS"]["iou"]) == pytest.approx(metrics["groups"]["miou"]["MS"], abs=1e-5)
    assert means["S"]["iou"] == ""
    values = {row["name"]: float(row["value"]) for row in rows if row["kind"] == "metric"}
    assert values == {"image_accuracy": 100, "f_measure": pytest.approx(metrics["f_measure"], abs=1e-5), "num_images": 2}  # fmt: skip


def test_the_csv_names_no_category_when_the_folders_are_not_one_a_category(luss: Launcher, small: Path) -> None:
    evaluate(luss, small, "--csv", str(small / "metrics.csv"), num_classes=3)
    with open(small / "metrics.csv", newline="", encoding="utf-8") as file:
        assert [row["name"] for row in csv.DictReader(file) if row["kind"] == "class"] == ["background", "", "", ""]


def test_pseudo_labels_of_a_run_serve_as_attention(luss: Launcher, small: Path) -> None:
    # The left half of every image is attended to: the threshold cuts the object off at column 15.
    attention = np.zeros((4, 6), np.uint8)
    attention[:, :3] = 255
    grid = np.ones((4, 6), np.uint16)
    labels = small / "run" / "pseudo_labels" / "labels"
    writer = LabelWriter(labels, [(0, 2)], num_clusters=2, fingerprint="x")
    writer.write_shard(0, [LabelRecord(name, (20, 30), grid, attention) for name in ("cat/a.JPEG", "dog/b.JPEG")])
    writer.finish(0.0, "given")
    evaluate(luss, small, "--attention", str(labels.parent), "--thresholds", "0.5", "--json", str(small / "cut.json"))
    cut = json.loads((small / "cut.json").read_text(encoding="utf-8"))
    assert cut["threshold"] == 0.5
    # 10 of 15 columns of each object are left.
    assert cut["ious"][1:] == pytest.approx([100 * 10 / 15] * 2)


def test_every_problem_of_every_file_is_told_before_anything_is_written(luss: Launcher, small: Path) -> None:
    shape = (20, 30)
    for name in "efgh":
        write_mask(small / "masks" / "cat" / f"{name}.png", np.ones(shape, np.uint16))
    write_mask(small / "predictions" / "cat" / "surplus.png", np.ones(shape, np.uint16))
    write_mask(small / "predictions" / "cat" / "f.png", np.ones((30, 20), np.uint16))
    Image.new("L", shape[::-1]).save(small / "predictions" / "cat" / "g.png")
    write_mask(small / "predictions" / "cat" / "h.png", np.full(shape, 3))
    (small / "predictions" / "cat" / "a.png").write_bytes(b"no picture")
    write_mask(small / "masks" / "dog" / "b.png", np.full(shape, 7))
    output = evaluate(luss, small, "--json", str(small / "metrics.json"), code=2).output
    assert "7 problems" in output
    for name, fault in [
        ("cat/e.png", "missing"),
        ("cat/surplus.png", "surplus"),
        ("cat/f.png", "size 20 x 30"),
        ("cat/g.png", "mode L"),
        ("cat/h", "prediction holds ids outside 0..2: 3"),
        ("cat/a.png", "cannot be read"),
        ("dog/b", "mask holds ids outside 0..2: 7"),
    ]:
        assert any(name in line and fault in line for line in output.splitlines()), (name, fault, output)
    assert not (small / "metrics.json").exists()


def test_ids_above_c_are_counted_as_published_when_allowed(luss: Launcher, small: Path) -> None:
    write_mask(small / "predictions" / "cat" / "a.png", np.full((20, 30), 9))
    assert "outside 0..2: 9" in evaluate(luss, small, code=2).output
    evaluate(luss, small, "--allow-foreign-ids")


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--matching", "best"], "--matching best is no file"),
        (["--thresholds", "0.4"], "thresholds apply to attention"),
        (["--attention", "absent", "--thresholds", "0.4"], "absent is no attention"),
        (["--attention", ".", "--thresholds", "0.8:0:0.1"], "the last one not below the first"),
        (["--workers", "0"], "at least 1, not 0"),
        (["--num-classes", "1000"], "1..999"),
        (["--json", "."], "--json . is a folder"),
        (["--json", "same", "--csv", "same"], "--json and --csv name the same file"),
    ],
)
def test_a_mistake_in_the_arguments_is_told_before_any_file_is_read(
    luss: Launcher, tmp_path: Path, words: list[str], fault: str
) -> None:
    # Folders that do not exist would be told as well, if anybody had looked.
    output = evaluate(luss, tmp_path / "nothing", *words, code=2).output
    assert fault in " ".join(output.split())
    assert output.count("error:") == 1


def test_a_matching_that_is_none_is_told_with_its_faults(luss: Launcher, small: Path) -> None:
    (small / "match.json").write_text('{"1": 1, "2": 1}', encoding="utf-8")
    output = evaluate(luss, small, "--matching", str(small / "match.json"), code=2).output
    assert "match.json" in output
    assert "clusters 1 and 2 both have category 1" in " ".join(output.split())


def test_a_range_of_thresholds_holds_the_numbers_one_would_write() -> None:
    assert parse_thresholds("0:0.8:0.01") == tuple(k / 100 for k in range(81))
    assert parse_thresholds("0.4") == (0.4,)
    assert parse_thresholds("0.1:0.35:0.1") == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    "text", ["", "a", "0:1", "0:1:0", "0:1:-0.1", "1:0:0.1", "0:nan:0.1", "0:1:0.00001", "1:2:3:4"]
)
def test_what_is_no_range_of_thresholds_is_refused(text: str) -> None:
    with pytest.raises(LussError, match="--thresholds"):
        parse_thresholds(text)
