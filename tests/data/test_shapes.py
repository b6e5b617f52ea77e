import colorsys
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits

from luss.data import shapes_drawing
from luss.data.imagenet_s import category_ids, find_layout, mask_path, read_mask
from luss.data.shapes import RECORD, category_of, draw_sample, make_shapes
from luss.data.shapes_drawing import CATEGORIES, Drawing, draw_shape
from luss.errors import LussError

pytestmark = pytest.mark.slow

SMALL = {"num_train": 30, "num_validation": 20, "num_test": 10, "num_train_semi_per_category": 2, "size": 48}
# The order of the moment that shows how an outline is turned; a disc and a ring look alike from everywhere.
ORDER = {"crescent": 2, "cross": 4, "digit": 2, "gear": 9, "heart": 3, "square": 4, "star": 5, "triangle": 3}
NUM_SEEDS = 16
TINY = {"num_train": 10, "num_validation": 3, "num_test": 2, "num_train_semi_per_category": 0, "size": 32}


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def changed_times(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in [root, *root.rglob("*")]}


def clustering_accuracy(features: np.ndarray, truth: np.ndarray) -> float:
    found = KMeans(len(CATEGORIES), n_init=2, random_state=0).fit_predict(features)
    counts = np.zeros((len(CATEGORIES), len(CATEGORIES)))
    np.add.at(counts, (found, truth), 1)
    rows, columns = linear_sum_assignment(-counts)
    return float(counts[rows, columns].sum() / len(truth))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes") / "data"
    make_shapes(folder, **SMALL)
    return folder


def test_a_picture_depends_on_nothing_but_its_arguments():
    alone = draw_sample("validation", 7, size=48)
    for index in (3, 12):
        draw_sample("train", index, size=48)
    again = draw_sample("validation", 7, size=48)
    assert np.array_equal(alone.image, again.image)
    assert np.array_equal(alone.mask, again.mask)


@pytest.mark.parametrize("other", [("test", 7, 0), ("validation", 17, 0), ("validation", 7, 1)])
def test_split_index_and_seed_each_give_another_picture(other):
    split, index, seed = other
    here = draw_sample("validation", 7, size=48).image
    there = draw_sample(split, index, size=48, seed=seed).image
    assert here.shape != there.shape or not np.array_equal(here, there)


def test_the_layout_is_the_one_of_imagenet_s(root):
    layout = find_layout(root)
    assert set(layout.images) == {"train", "train-semi", "validation", "test"}
    assert set(layout.masks) == {"train-semi", "validation", "test"}
    assert json.loads((root / RECORD).read_text())["parameters"]["num_train"] == 30


def test_every_category_is_in_every_split_in_equal_shares(root):
    for split, expected in {"train": 3, "train-semi": 2, "validation": 2, "test": 1}.items():
        counts = Counter(path.parent.name for path in (root / split).glob("*/*.jpg"))
        assert counts == dict.fromkeys(CATEGORIES, expected)


def test_categories_txt_numbers_categories_as_the_folders_do(root):
    names = (root / "categories.txt").read_text().split()
    assert {name: number for number, name in enumerate(names, start=1)} == category_ids(root / "train")


@pytest.mark.parametrize("split", ["train-semi", "validation", "test"])
def test_a_mask_has_its_pictures_size_and_only_its_category(root, split):
    layout, ids = find_layout(root), category_ids(root / "train")
    for path in (root / split).glob("*/*.jpg"):
        mask = read_mask(mask_path(layout, split, f"{path.parent.name}/{path.name}"))
        with Image.open(path) as image:
            assert mask.shape == (image.height, image.width)
        assert set(np.unique(mask)) == {0, ids[path.parent.name]}


def test_masks_and_images_pair_one_to_one(root):
    for split in ("train-semi", "validation", "test"):
        images = {path.relative_to(root / split).with_suffix("") for path in (root / split).glob("*/*.jpg")}
        folder = root / f"{split}-segmentation"
        assert images == {path.relative_to(folder).with_suffix("") for path in folder.glob("*/*.png")}


def test_train_semi_is_a_part_of_train(root):
    for path in (root / "train-semi").glob("*/*.jpg"):
        assert path.read_bytes() == (root / "train" / path.parent.name / path.name).read_bytes()


@pytest.mark.parametrize("category", CATEGORIES)
def test_the_mask_is_where_the_object_is(category):
    # Two drawings with the same chance but another category share the background: they differ inside their masks only.
    other = "disc" if category != "disc" else "square"
    first, second = (draw_shape(name, rng=np.random.default_rng(5), difficulty=0.0) for name in (category, other))
    difference = np.abs(first.image.astype(int) - second.image.astype(int)).max(axis=2)
    either = first.mask | second.mask
    grown = either.copy()
    for axis in (0, 1):
        for shift in (-2, -1, 1, 2):
            grown |= np.roll(either, shift, axis)
    assert (difference[~grown] <= 12).mean() > 0.99
    assert (difference[first.mask & ~second.mask] > 30).mean() > 0.9


@pytest.mark.parametrize("difficulty", [0.0, 0.5, 1.0])
def test_objects_cover_12_to_46_percent_and_lie_wholly_inside(difficulty):
    for index in range(60):
        mask = draw_sample("train", index, difficulty=difficulty).mask
        assert 0.10 <= mask.mean() <= 0.47
        assert not np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).any()


def test_pictures_vary_in_size_around_the_one_asked_for():
    shapes = [draw_sample("train", index, size=80).mask.shape for index in range(40)]
    longest, shortest = np.max(shapes, axis=1), np.min(shapes, axis=1)
    assert longest.min() >= 80
    assert longest.max() <= 104
    assert len(set(shapes)) > 20
    assert (longest / shortest).max() > 1.15
    assert (longest / shortest).max() <= 1.36


def test_difficulty_makes_backgrounds_busier_and_objects_vary_more():
    def measure(difficulty: float) -> tuple[float, float]:
        drawings = [draw_sample("train", index, difficulty=difficulty) for index in range(60)]
        busyness = np.mean([d.image[~d.mask].std(axis=0).mean() for d in drawings])
        return float(busyness), float(np.std([d.mask.mean() for d in drawings]))

    easy, middle, hard = measure(0.0), measure(0.5), measure(1.0)
    assert easy[0] * 1.2 < middle[0]
    assert middle[0] * 1.2 < hard[0]
    assert easy[1] < hard[1]


def test_colours_do_not_tell_the_category():
    drawings = [draw_sample("train", index, size=48) for index in range(300)]
    truth = np.arange(300) % len(CATEGORIES)
    means = np.stack([np.concatenate([d.image[d.mask].mean(axis=0), d.image[~d.mask].mean(axis=0)]) for d in drawings])
    # Ten clusters matched to ten random labels of 300 samples agree on about 18 %.
    assert clustering_accuracy(means, truth) < 0.24


def test_an_object_differs_from_its_background():
    for index in range(60):
        drawing = draw_sample("train", index)
        inside = drawing.image[drawing.mask].astype(float)
        ground = drawing.image[~drawing.mask].astype(float).mean(axis=0)
        assert np.linalg.norm(inside - ground, axis=1).mean() > 40


def test_making_the_same_data_set_again_does_nothing(root):
    before = changed_times(root)
    make_shapes(root, **SMALL, workers=2)
    assert changed_times(root) == before


def test_other_parameters_replace_the_data_set(tmp_path):
    make_shapes(tmp_path / "data", **TINY)
    make_shapes(tmp_path / "data", **{**TINY, "seed": 1})
    make_shapes(tmp_path / "direct", **{**TINY, "seed": 1})
    assert contents(tmp_path / "data") == contents(tmp_path / "direct")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "direct"]


def test_a_data_set_by_older_drawing_code_is_replaced(tmp_path, monkeypatch):
    make_shapes(tmp_path / "data", **TINY)
    before = (tmp_path / "data").stat().st_ino
    monkeypatch.setattr("luss.data.shapes.VERSION", 10**6)
    make_shapes(tmp_path / "data", **TINY)
    assert (tmp_path / "data").stat().st_ino != before


def test_the_number_of_workers_changes_no_file(root, tmp_path):
    make_shapes(tmp_path / "data", **SMALL, workers=2)
    assert contents(tmp_path / "data") == contents(root)


def test_an_interrupted_run_leaves_the_old_data_set_and_no_half_one(tmp_path, monkeypatch):
    make_shapes(tmp_path / "data", **TINY)
    before = contents(tmp_path / "data")

    def interrupted(split, index, **parameters):
        if index == 5:
            raise KeyboardInterrupt
        return draw_sample(split, index, **parameters)

    monkeypatch.setattr("luss.data.shapes.draw_sample", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_shapes(tmp_path / "data", **{**TINY, "seed": 3})
    assert contents(tmp_path / "data") == before
    assert os.listdir(tmp_path) == ["data"]


def test_a_folder_with_other_files_is_never_touched(tmp_path):
    (tmp_path / "dataset.json").write_text('{"parameters": {}}')
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(LussError, match="not a shapes data set"):
        make_shapes(tmp_path, **TINY)
    assert (tmp_path / "holiday.jpg").read_bytes() == b"mine"


def test_an_empty_folder_is_filled(tmp_path):
    make_shapes(tmp_path, num_train=10, num_validation=0, num_test=0, num_train_semi_per_category=0, size=32)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["categories.txt", RECORD, "train"]


@pytest.mark.parametrize(
    ("name", "value"), [("difficulty", 1.5), ("difficulty", float("nan")), ("num_test", -1), ("size", 4), ("seed", -2)]
)
def test_a_parameter_out_of_range_is_named(tmp_path, name, value):
    with pytest.raises(LussError, match=name):
        make_shapes(tmp_path / "data", **{**TINY, name: value})
    assert not (tmp_path / "data").exists()


def test_categories_take_turns():
    assert [category_of(index) for index in range(10)] == sorted(CATEGORIES)


def test_pictures_may_be_larger_than_the_photographs_behind_them():
    for index in range(6):
        assert max(draw_sample("train", index, size=700).mask.shape) >= 700


def over_seeds(category: str) -> list[Drawing]:
    """One category as data sets of several seeds hold it."""
    index = sorted(CATEGORIES).index(category)
    return [draw_sample("train", index, seed=seed) for seed in range(NUM_SEEDS)]


def direction(mask: np.ndarray, order: int) -> complex:
    """e^(i n a) for an object turned by a: the phase of its n-th moment about its centre."""
    y, x = np.nonzero(mask)
    places = (x - x.mean()) + 1j * (y - y.mean())
    moment = np.sum((places / np.abs(places).max()) ** order)
    return complex(moment / np.abs(moment))


@pytest.mark.parametrize("category", ORDER)
def test_an_object_is_turned_differently_in_the_data_of_each_seed(category: str) -> None:
    order = ORDER[category]
    mean = np.mean([direction(drawing.mask, order) for drawing in over_seeds(category)])
    spread = np.degrees(np.sqrt(-2 * np.log(np.abs(mean)))) / order
    # Digits stay upright: they turn by a few degrees.
    assert spread > (1.5 if category == "digit" else 5)


@pytest.mark.parametrize("category", CATEGORIES)
def test_an_object_is_drawn_in_another_size_and_in_other_colours_for_each_seed(category: str) -> None:
    drawings = over_seeds(category)
    shares = [drawing.mask.mean() for drawing in drawings]
    assert max(shares) / min(shares) > 1.2
    for inside in (True, False):
        colours = [drawing.image[drawing.mask == inside].mean(axis=0) / 255 for drawing in drawings]
        hues = {int(6 * colorsys.rgb_to_hsv(*colour)[0]) for colour in colours}
        assert len(hues) >= 3, "hues of few of the six sixths of the wheel"


def test_the_digit_is_one_of_the_handwritten_threes_that_scikit_learn_ships() -> None:
    digits = load_digits()
    known = np.stack([unit(image) for image in digits.images])
    for seed in range(5):
        drawing = draw_shape("digit", rng=np.random.default_rng(seed), size=160, difficulty=0.0)
        rows, columns = np.flatnonzero(drawing.mask.any(axis=1)), np.flatnonzero(drawing.mask.any(axis=0))
        top, height = rows[0], rows[-1] + 1 - rows[0]
        # The digit fills 85 % of the plaque's height and all of its width.
        box = (columns[0], top + 0.075 * height, columns[-1] + 1, top + 0.925 * height)
        plaque = Image.fromarray(drawing.image).convert("L").resize((8, 8), Image.Resampling.BOX, box=box)
        likeness = known @ unit(np.asarray(plaque, dtype=float))
        assert digits.target[likeness.argmax()] == 3
        assert likeness.max() > 0.9


def unit(image: np.ndarray) -> np.ndarray:
    centred = image.ravel() - image.mean()
    return centred / np.linalg.norm(centred)


def test_the_photographs_that_scikit_learn_ships_are_behind_about_four_objects_of_ten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photographic = [draw_sample("train", index) for index in range(40)]
    black = SimpleNamespace(images=[np.zeros((427, 640, 3), np.uint8)] * 2)
    monkeypatch.setattr(shapes_drawing, "load_sample_images", lambda: black)
    # The real ones are cached.
    monkeypatch.setattr(shapes_drawing, "_photographs", shapes_drawing._photographs.__wrapped__)
    changed = 0
    for index, before in enumerate(photographic):
        different = (before.image != draw_sample("train", index).image).any(axis=2)
        changed += bool(different[~before.mask].any())
        # Blur and half-covered pixels carry the background a little way into the object.
        assert not different[before.mask].all()
    assert 8 <= changed <= 24


def test_what_a_killed_drawing_left_is_removed_by_the_next(tmp_path):
    script = "import os, sys; from luss.data import shapes; shapes._write_sample = lambda *job: os._exit(9); shapes.make_shapes(sys.argv[1])"
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "shapes")], check=False)
    assert killed.returncode == 9
    assert len(list(tmp_path.iterdir())) == 1
    # Another's, of whom nothing can be known here.
    (tmp_path / ".shapes.00000000-1-1.partial").mkdir()
    make_shapes(tmp_path / "shapes", **TINY)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".shapes.00000000-1-1.partial", "shapes"]
