"""The grid of a comparison: which words are axes, what the cells are called, and every fault before anything runs."""

from pathlib import Path

import pytest
from tiny_run import write_tiny_config

from luss.errors import LussError
from stages.cli import COMMANDS
from stages.commands.base import parsed
from stages.comparing.grid import Grid, read_grid

SMALL_VIEWS = "global_views: {count: 2, size: 32, scale: [0.3, 1.0]}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration, and files to lay over it; there need be no images to read them."""
    folder = tmp_path_factory.mktemp("grid")
    write_tiny_config(folder / "tiny.yaml", folder / "shapes")
    for name in ("simclr", "simsiam"):
        text = f"pretrain: {{method: {{name: {name}, {SMALL_VIEWS}}}}}\n"
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    (folder / "other").mkdir()
    (folder / "other" / "simclr.yaml").write_text("seed: 3\n", encoding="utf-8")
    for name in ("own", "another"):
        (folder / f"{name}.yaml").write_text(f"name: {name}\n", encoding="utf-8")
    return folder


@pytest.fixture
def read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> "Reader":
    monkeypatch.chdir(folder)
    return Reader()


class Reader:
    """Reads a grid from words as they are typed."""

    def __call__(self, *words: str) -> Grid:
        return read_grid(Path("tiny.yaml"), words)


def test_a_list_for_a_setting_that_takes_none_is_an_axis_and_every_value_a_run_in_a_folder_of_its_own(
    read: Reader,
) -> None:
    grid = read("pretrain.lr=[0.1,1e-3]", "name=rates", "cluster.num_restarts=3")
    assert [(axis.title, axis.labels) for axis in grid.axes] == [("lr", ("0.1", "1e-3"))]
    assert [cell.name for cell in grid.cells] == ["lr0.1", "lr1e-3"]
    assert [cell.run.pretrain.lr for cell in grid.cells] == [0.1, 0.001]
    assert (grid.name, grid.folder) == ("rates", Path("outputs/rates"))
    assert [cell.run.output for cell in grid.cells] == ["outputs/rates/lr0.1", "outputs/rates/lr1e-3"]
    assert {cell.run.cluster.num_restarts for cell in grid.cells} == {3}


def test_for_a_setting_that_takes_a_list_a_list_is_a_value_and_a_list_of_lists_an_axis(read: Reader) -> None:
    grid = read(
        "extract_features.layout_stages=[[0],[0,4]]", "data.extra=[a,b]", "pretrain.method.global_views.scale=[0.5,1.0]"
    )
    assert [cell.run.extract_features.layout_stages for cell in grid.cells] == [[0], [0, 4]]
    assert all(cell.run.data.extra == ["a", "b"] for cell in grid.cells)
    assert [cell.name for cell in grid.cells] == ["layout_stages0", "layout_stages0_4"]


def test_the_values_of_a_text_are_the_texts_that_were_typed(read: Reader) -> None:
    grid = read("pseudo_labels.threshold=[auto,0.50]", "data.train=[on,2023_05]")
    assert {cell.run.pseudo_labels.threshold for cell in grid.cells} == {"auto", "0.50"}
    assert {cell.run.data.train for cell in grid.cells} == {"on", "2023_05"}
    assert [cell.name for cell in grid.cells] == [
        "auto-on", "auto-train2023_05", "threshold0.50-on", "threshold0.50-train2023_05"
    ]  # fmt: skip


def test_learners_and_their_own_settings_may_be_axes(read: Reader) -> None:
    words = (
        "pretrain.method=[simclr,moco_v2]",
        "pretrain.method.temperature=[0.2,0.3]",
        f"pretrain.method={{{SMALL_VIEWS}}}",
    )
    grid = read(*words)
    assert [axis.title for axis in grid.axes] == ["method", "method.temperature"]
    assert [cell.run.pretrain.method.name for cell in grid.cells] == ["simclr", "simclr", "moco_v2", "moco_v2"]
    assert [cell.name for cell in grid.cells][:2] == ["simclr-temperature0.2", "simclr-temperature0.3"]


def test_files_in_brackets_are_an_axis_named_by_their_stems(read: Reader) -> None:
    grid = read("[simclr.yaml,simsiam.yaml]", "seed=[0,1]")
    assert grid.cells[0].labels == {"configuration": "simclr", "seed": "0"}
    assert [cell.run.pretrain.method.name for cell in grid.cells] == ["simclr", "simsiam"] * 2
    grid = read("[simclr.yaml,simsiam.yaml]", "[other/simclr.yaml,own.yaml]", "name=two")
    assert [axis.title for axis in grid.axes] == ["configuration", "configuration 2"]
    assert [cell.run.seed for cell in grid.cells] == [3, 0, 3, 0]
    assert grid.folder == Path("outputs/two")


def test_one_seed_of_everything_comes_before_a_second_seed_of_anything(read: Reader) -> None:
    for words in (("pretrain.lr=[0.1,0.2]", "seed=[5,6]"), ("seed=[5,6]", "pretrain.lr=[0.1,0.2]")):
        cells = read(*words).cells
        assert [(cell.run.seed, cell.run.pretrain.lr) for cell in cells] == [(5, 0.1), (5, 0.2), (6, 0.1), (6, 0.2)]
        assert cells[0].row == cells[2].row != cells[1].row


def test_a_value_that_is_no_name_of_a_folder_becomes_one_that_no_other_value_has(read: Reader) -> None:
    names = [cell.name for cell in read("pretrain.backbone.weights=[/a/b.pt,/a_b.pt,../x,..]").cells]
    assert len(set(names)) == 4
    assert not any("/" in name or name.startswith(".") for name in names)


FAULTS = [
    (("cluster.num_restarts=2",), ["there is nothing to compare"]),
    (("seed=[]",), ["seed has no value"]),
    (("seed=[0,1,0]",), ["names '0' 2 times"]),
    (("seed=[0,1]", "seed=[2]"), ["the axis seed stands twice"]),
    (("seed=[0,1]", "seed=3"), ["seed0 and seed1 have the same settings"]),
    (("name=[a,b]", "output=[a,b]"), ["name cannot be an axis", "output cannot be an axis"]),
    (("seed=[0,", "1]"), ["'seed=[0,' is only a part of a list", "'1]' is only a part of a list"]),
    (("extract_features.layout_stages=[[0],1]",), ["mixes lists and single values"]),
    (("[a.yaml",), ["'[a.yaml' is only a part of a list"]),
    (("[]",), ["is no list of files"]),
    (("[seed=1,seed=2]",), ["is no list of files"]),
    (("[simclr.yaml,other/simclr.yaml]",), ["names 'simclr' 2 times"]),
    (("[own.yaml,another.yaml]",), ["give 2 names to the comparison (outputs/own, outputs/another)", "name=NAME"]),
    (("[simclr.yaml,simsian.yaml]",), ["simsian: the configuration simsian.yaml does not exist: did you mean simsiam.yaml?"]),
    # What every cell has is said once, what some have with their names.
    (
        ("pretrain.method=[simclr,swav]", "pretrain.method.temperature=0.2", "pretrain.lr=x", "cluster.num_cluster=3"),
        ["\nunknown setting 'cluster.num_cluster'", "pretrain.lr in word 'pretrain.lr=x'", "swav: unknown setting 'pretrain.method.temp"],
    ),
    (("seed=[0,1]", "cluster.num_clusters=[0,3]"), ["seed0-num_clusters0, seed1-num_clusters0: cluster.num_clusters is 0"]),
    (("pretrain.lr=[-5,-4,-3,-2,1]",), ["lr--5: pretrain.lr is -5", "lr--2: pretrain.lr is -2"]),
]  # fmt: skip


@pytest.mark.parametrize(("words", "told"), FAULTS, ids=lambda value: " ".join(value)[:60])
def test_everything_that_is_wrong_is_told_at_once(read: Reader, words: tuple[str, ...], told: list[str]) -> None:
    with pytest.raises(LussError) as error:
        read(*words)
    assert all(text in f"\n{error.value}" for text in told), error.value


def test_a_fault_of_many_cells_names_some_and_their_number(read: Reader) -> None:
    with pytest.raises(LussError, match=r"^seed0-lr--1, seed1-lr--1, seed2-lr--1 and 1 more: pretrain\.lr is -1"):
        read("seed=[0,1,2,3]", "pretrain.lr=[-1,1]")


def test_a_list_of_files_may_stand_before_the_configuration() -> None:
    import argparse

    parser = argparse.ArgumentParser()
    COMMANDS["compare"].arguments(parser)
    options = parsed(
        parser, {"compare": parser}, ["compare", "[a.yaml,b.yaml]", "--until", "cluster", "c.yaml", "seed=[0,1]"]
    )
    assert options.config == Path("c.yaml")
    assert options.words == ["[a.yaml,b.yaml]", "seed=[0,1]"]
