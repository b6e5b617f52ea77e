"""Edits of pseudo labels: small layers over the stored maps, which stay as they are."""

import doctest
import errno
import hashlib
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

import luss.labels.store
from luss.errors import LussError
from luss.labels.dataset import PseudoLabels
from luss.labels.layers import Edits, current_layer, read_edits
from luss.labels.store import LabelStore
from luss.labels.writer import LabelRecord, LabelWriter

LABELS = np.array([[1, 2, 3], [4, 5, 6]], np.uint16)
ATTENTION = np.array([[255, 200, 150], [120, 60, 10]], np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder with one label map of six clusters, at the size of its image; the threshold is 0.2."""
    labels = tmp_path / "run" / "pseudo_labels" / "labels"
    writer = LabelWriter(labels, [(0, 1)], num_clusters=6, fingerprint="f")
    writer.write_shard(0, [LabelRecord("a.jpg", (2, 3), LABELS, ATTENTION)])
    writer.finish(0.2, "auto")
    return tmp_path / "run"


def add(folder: Path, **edits: object) -> LabelStore:
    LabelStore.open(folder).layers.add(Edits(**edits))  # type: ignore[arg-type]
    return LabelStore.open(folder)


def files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.h5")}


def test_merged_clusters_take_the_smallest_id_and_no_other_id_moves(folder: Path) -> None:
    store = add(folder, merge=((6, 3),))
    assert store.label_map(0, threshold=0.0).tolist() == [[1, 2, 3], [4, 5, 3]]
    assert (store.num_clusters, store.clusters) == (6, [1, 2, 3, 4, 5])


def test_a_dropped_cluster_is_background(folder: Path) -> None:
    store = add(folder, drop=(2, 5))
    assert store.label_map(0, threshold=0.0).tolist() == [[1, 0, 3], [4, 0, 6]]
    assert store.raw(0)[0].tolist() == [[1, 0, 3], [4, 0, 6]]
    assert store.crop(0, (1, 0, 1, 1), size=2, threshold=0.0).tolist() == [[0, 0], [0, 0]]
    assert store.dominant_clusters(0.0).tolist() == [1]


def test_an_image_whose_clusters_are_all_dropped_has_no_dominant_cluster(folder: Path) -> None:
    assert add(folder, drop=(1, 2, 3, 4, 5, 6)).dominant_clusters().tolist() == [0]


def test_a_new_threshold_counts_for_every_reader(folder: Path) -> None:
    store = add(folder, threshold=0.5)
    assert store.label_map(0).tolist() == [[1, 2, 3], [0, 0, 0]]
    assert (store.threshold, store.threshold_source, store.used_labels) == (0.5, "given", False)
    assert PseudoLabels(folder / "pseudo_labels" / "labels")[0]["label"].tolist() == [[1, 2, 3], [0, 0, 0]]


def test_layers_build_on_one_another(folder: Path) -> None:
    add(folder, merge=((1, 2),))
    add(folder, merge=((2, 3),), threshold=0.0)
    store = add(folder, names={1: "dog"})
    assert store.label_map(0).tolist() == [[1, 1, 1], [4, 5, 6]]
    assert (store.layer.number, store.layer.parent, store.names) == (3, 2, {1: "dog"})
    assert store.threshold == 0.0


def test_dropping_the_id_of_a_group_drops_the_group(folder: Path) -> None:
    add(folder, merge=((3, 6),))
    assert add(folder, drop=(3,)).label_map(0, threshold=0.0).tolist() == [[1, 2, 0], [4, 5, 0]]


def test_the_stored_files_are_never_touched(folder: Path) -> None:
    before = files(folder)
    add(folder, merge=((1, 2),), drop=(5,), threshold=0.9, names={3: "x"})
    assert files(folder) == before
    stored = LabelStore.open(folder, layer=None)
    assert stored.label_map(0, threshold=0.0).tolist() == LABELS.tolist()
    assert (stored.threshold, stored.threshold_source) == (0.2, "auto")


def test_every_layer_can_be_opened_and_made_the_current_one_again(folder: Path) -> None:
    add(folder, drop=(1,))
    store = add(folder, drop=(2,))
    assert LabelStore.open(folder, layer=1).label_map(0, threshold=0.0).tolist()[0] == [0, 2, 3]
    store.layers.use(1)
    assert LabelStore.open(folder).layer.dropped == (1,)
    store.layers.use(0)
    assert LabelStore.open(folder).label_map(0, threshold=0.0).tolist() == LABELS.tolist()


def test_an_edit_after_going_back_gets_a_number_of_its_own(folder: Path) -> None:
    add(folder, drop=(1,))
    LabelStore.open(folder).layers.use(0)
    store = add(folder, drop=(2,))
    assert (store.layer.number, store.layer.parent, store.layer.dropped) == (2, 0, (2,))
    assert [layer.dropped for layer in store.layers.history()] == [(1,), (2,)]


def test_the_history_says_what_was_asked_for_and_when(folder: Path) -> None:
    add(folder, merge=((1, 2),), names={3: "dog"})
    content = json.loads((folder / "pseudo_labels" / "labels" / "layers" / "001.json").read_text())
    assert content["change"] == {"merge": [[1, 2]], "names": {"3": "dog"}}
    assert (content["parent"], content["created"][:2]) == (0, "20")


def test_giving_the_same_edits_twice_makes_no_second_layer(folder: Path) -> None:
    edits = {"merge": ((3, 6),), "drop": (5,), "names": {3: "dog"}, "threshold": 0.5}
    add(folder, **edits)
    assert add(folder, **edits).layers.numbers() == [1]


def test_the_stored_threshold_is_no_edit(folder: Path) -> None:
    assert add(folder, threshold=0.2).layers.numbers() == []


def test_names_do_not_change_the_identity_of_the_labels(folder: Path) -> None:
    labels = folder / "pseudo_labels" / "labels"
    assert current_layer(labels).identity == ""
    add(folder, names={1: "dog"})
    assert (current_layer(labels).number, current_layer(labels).identity) == (1, "")
    add(folder, drop=(1,))
    dropped = current_layer(labels).identity
    add(folder, threshold=0.9)
    assert len({"", dropped, current_layer(labels).identity}) == 3


def test_two_clusters_of_one_name_stay_two_and_a_note_says_so(folder: Path) -> None:
    store = LabelStore.open(folder)
    layer, notes = store.layers.add(Edits(names={1: "dog", 4: "dog"}))
    assert not layer.merged
    assert notes == ["clusters 1 and 4 have the same name 'dog' and stay 2 clusters: --merge 1,4 makes them one"]


def test_a_group_goes_by_the_name_of_its_first_named_cluster(folder: Path) -> None:
    store = add(folder, merge=((2, 4, 5),), names={4: "dog", 5: "hound"})
    assert store.names == {2: "dog"}
    assert [store.cluster_name(cluster) for cluster in (0, 1, 2)] == ["background", "cluster 1", "dog"]


def test_an_empty_name_takes_a_name_away(folder: Path) -> None:
    add(folder, names={1: "dog", 2: "cat"})
    assert add(folder, names={1: " "}).names == {2: "cat"}


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"names": {7: "dog"}}, "cannot name cluster 7: clusters have the ids 1 to 6"),
        ({"names": {0: "dog"}}, "cannot name 0: it is the background"),
        ({"merge": ((1, 9),)}, "cannot merge cluster 9"),
        ({"merge": ((0, 1),)}, "cannot merge 0"),
        ({"merge": ((2, 2),)}, "cannot merge 2, 2: give two clusters"),
        ({"merge": ((1, 2),), "drop": (2,)}, "cannot merge cluster 2: it is dropped"),
        ({"drop": (-1,)}, "cannot drop cluster -1"),
        ({"drop": (0,)}, "cannot drop 0"),
        ({"threshold": 1.5}, r"threshold is 1\.5"),
        ({"threshold": float("nan")}, "threshold is nan"),
    ],
)
def test_wrong_edits_are_refused_and_leave_nothing(folder: Path, edits: dict[str, object], message: str) -> None:
    with pytest.raises(LussError, match=message):
        add(folder, **edits)
    assert not (folder / "pseudo_labels" / "labels" / "layers").exists()


def test_what_an_earlier_layer_dropped_or_merged_is_not_edited_by_its_old_id(folder: Path) -> None:
    add(folder, drop=(5,), merge=((2, 4),))
    with pytest.raises(LussError, match="cannot merge cluster 5: it is dropped"):
        add(folder, merge=((1, 5),))
    with pytest.raises(LussError, match="cannot drop cluster 4: it was merged into 2"):
        add(folder, drop=(4,))


def test_layers_of_other_label_maps_are_refused(folder: Path) -> None:
    add(folder, drop=(1,))
    labels = folder / "pseudo_labels" / "labels"
    writer = LabelWriter(labels, [(0, 1)], num_clusters=6, fingerprint="other")
    writer.write_shard(0, [LabelRecord("a.jpg", (2, 3), LABELS, ATTENTION)])
    writer.finish(0.2, "auto")
    with pytest.raises(LussError, match=r"001\.json was made for other label maps"):
        LabelStore.open(folder)
    assert len(LabelStore.open(folder, layer=None)) == 1


@pytest.mark.parametrize(("name", "content"), [("001.json", "{"), ("001.json", "[]"), ("current", "one")])
def test_a_damaged_layer_names_the_file_and_the_fix(folder: Path, name: str, content: str) -> None:
    add(folder, drop=(1,))
    (folder / "pseudo_labels" / "labels" / "layers" / name).write_text(content)
    with pytest.raises(LussError, match=f"{name} is (damaged|not valid JSON).*delete"):
        LabelStore.open(folder)


def test_an_unknown_layer_is_refused_with_those_there_are(folder: Path) -> None:
    add(folder, drop=(1,))
    with pytest.raises(LussError, match=r"there is no layer 7 .*and 1"):
        LabelStore.open(folder, layer=7)


def test_a_copy_in_a_worker_reads_the_layer_of_its_original(folder: Path) -> None:
    store = add(folder, drop=(1,))
    packed = pickle.dumps(store)
    store.layers.use(0)
    assert pickle.loads(packed).layer.number == 1
    assert len(packed) < 1000


def test_a_plain_object_of_names_and_the_file_of_the_report_are_both_read(tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    path.write_text('{"3": "dog", "4": null}')
    assert read_edits(path) == Edits(names={3: "dog", 4: ""})
    path.write_text('{"names": {"3": "Hündin"}, "merge": [[3, 17]], "drop": [5], "threshold": 0.5}', encoding="utf-8")
    assert read_edits(path) == Edits(threshold=0.5, merge=((3, 17),), drop=(5,), names={3: "Hündin"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "is not an object"),
        ('{"x": "dog"}', "'x' is not a cluster id"),
        ('{"3": 4}', "name of cluster 3 is 4: write it in quotes"),
        ('{"3": "a\\nb"}', "control characters"),
        ('{"names": {}, "merges": []}', "unknown part 'merges'"),
        ('{"merge": [3, 17]}', r"merge is a list of groups"),
        ('{"drop": [1.5]}', r"1\.5 is not a cluster id"),
        ('{"drop": [true]}', "True is not a cluster id"),
        ('{"threshold": "high"}', "'high' is not a number"),
    ],
)
def test_a_wrong_names_file_is_refused_by_name(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "names.json"
    path.write_text(content)
    with pytest.raises(LussError, match=message) as caught:
        read_edits(path)
    assert str(path) in str(caught.value)


def test_the_summary_says_what_there_is(folder: Path) -> None:
    store = add(folder, merge=((1, 2),), drop=(5,), names={1: "dog"}, threshold=0.5)
    assert store.summary() == {
        "images": 1,
        "clusters": 4,
        "merged": {2: 1},
        "dropped": [5],
        "names": {1: "dog"},
        "threshold": 0.5,
        "threshold_source": "given",
        "used_labels": False,
        "layer": 1,
    }
    assert repr(store) == "<LabelStore 1 images, 4 clusters, threshold 0.500, layer 1>"


@pytest.mark.parametrize("place", ["", "pseudo_labels", "pseudo_labels/labels", "pseudo_labels/labels/labels.h5"])
def test_the_folder_of_a_run_opens_as_well_as_the_file(folder: Path, place: str) -> None:
    assert LabelStore.open(folder / place).path == folder / "pseudo_labels" / "labels" / "labels.h5"


def test_the_example_of_the_store_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / "outputs").mkdir()
    folder.rename(folder.parent / "outputs" / "demo")
    monkeypatch.chdir(folder.parent)
    result = doctest.testmod(luss.labels.store)
    assert (result.failed, result.attempted > 4) == (0, True)


def test_an_edit_that_was_killed_before_it_counted_is_taken_up_by_its_repetition(folder: Path) -> None:
    add(folder, drop=(1,))
    add(folder, merge=((2, 3),))
    # As the kill left it: the layer is written, the word which one counts is not.
    (folder / "pseudo_labels" / "labels" / "layers" / "current").write_text("1\n")
    store = add(folder, merge=((2, 3),))
    assert store.layer.number == 2
    assert store.layers.numbers() == [1, 2]
    # Another edit of the first layer is another layer.
    store.layers.use(1)
    assert add(folder, merge=((4, 5),)).layer.number == 3


def test_a_layer_that_was_merely_not_opened_is_not_called_damaged(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(folder, drop=(1,))

    def refuse(path: Path) -> bytes:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(LussError) as caught:
        LabelStore.open(folder, layer=1)
    assert "delete" not in str(caught.value)
    assert "ulimit -n" in str(caught.value)
