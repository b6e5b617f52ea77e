import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from luss.config import load_config, load_stored_config, to_yaml
from luss.errors import LussError
from luss.methods.pass_s import PassSSettings
from luss.methods.swav import SwAVSettings
from luss.settings import OptimizerSettings, PretrainSettings, RunSettings
from luss.settings.fields import all_keys

MINIMAL = "name: trial\ndata: {root: photos}\n"


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    return written(tmp_path, MINIMAL)


def written(folder: Path, text: str) -> Path:
    path = folder / "trial.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, *words: str) -> str:
    with pytest.raises(LussError) as caught:
        load_config(path, words)
    return str(caught.value)


def test_an_unknown_key_in_the_file_is_refused_naming_the_key_the_file_and_the_nearest_key(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL + "pretrain: {epoch: 3}\n")
    message = refusal(path)
    assert "'pretrain.epoch'" in message
    assert str(path) in message
    assert "did you mean 'pretrain.epochs'?" in message


def test_an_unknown_key_deep_in_the_file_is_refused_naming_its_whole_path(tmp_path: Path) -> None:
    message = refusal(written(tmp_path, MINIMAL + "pretrain: {method: {clustering: {num_prototype: 3}}}\n"))
    assert "'pretrain.method.clustering.num_prototype'" in message
    assert "did you mean 'pretrain.method.clustering.num_prototypes'?" in message


def test_an_unknown_block_is_refused_before_its_keys(tmp_path: Path) -> None:
    message = refusal(written(tmp_path, MINIMAL + "pretrane: {epochs: 3}\n"))
    assert "'pretrane'" in message
    assert "did you mean 'pretrain'?" in message


def test_an_unknown_key_in_a_word_is_refused_naming_the_word(minimal: Path) -> None:
    message = refusal(minimal, "pretrain.epochs=2", "cluster.num_cluster=5")
    assert "'cluster.num_cluster'" in message
    assert "word 'cluster.num_cluster=5'" in message
    assert "did you mean 'cluster.num_clusters'?" in message


def test_a_known_name_in_the_wrong_block_is_found_in_the_right_one(minimal: Path) -> None:
    assert "did you mean 'extract_features.crop'?" in refusal(minimal, "crop=8")


def test_a_key_below_a_plain_setting_is_refused(minimal: Path) -> None:
    assert "pretrain.epochs in word 'pretrain.epochs.first=8'" in refusal(minimal, "pretrain.epochs.first=8")


def test_a_key_like_nothing_known_points_to_the_list_of_settings(minimal: Path) -> None:
    assert "luss config FILE" in refusal(minimal, "zzzzqqqq=1")


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("pretrain.epochs=many", "pretrain.epochs"),
        ("pretrain.epochs=2.5", "pretrain.epochs"),
        ("pretrain.epochs=true", "pretrain.epochs"),
        ("pretrain.lr=fast", "pretrain.lr"),
        ("pretrain.compile=perhaps", "pretrain.compile"),
        ("pretrain.method.global_views.scale=[0.1]", "pretrain.method.global_views.scale"),
        ("pretrain.method.shallow_stages=[three]", "pretrain.method.shallow_stages"),
        ("data.extra=train-extra", "data.extra"),
        ("pretrain=5", "pretrain"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_naming_key_and_word(minimal: Path, word: str, key: str) -> None:
    message = refusal(minimal, word)
    assert re.match(rf"{re.escape(key)}(\[\d+\])? in word {re.escape(repr(word))}", message)


def test_a_value_of_the_wrong_type_in_the_file_names_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL + "pretrain: {epochs: many}\n")
    assert refusal(path).startswith(f"pretrain.epochs in file {path}")


def test_a_block_that_is_left_empty_in_the_file_keeps_its_defaults(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL + "pretrain:\n  # epochs: 100\n")
    assert load_config(path).pretrain == PretrainSettings(method=PassSSettings())


@pytest.mark.parametrize("text", ["name: a\nname: b\ndata: {root: x}\n", "name: a\ndata:\n  root: x\n  root: y\n"])
def test_a_key_that_stands_twice_is_refused(tmp_path: Path, text: str) -> None:
    assert "duplicate key" in refusal(written(tmp_path, text))


def test_a_missing_root_and_name_are_named_together(tmp_path: Path) -> None:
    message = refusal(written(tmp_path, "seed: 3\n"))
    assert "data.root" in message
    assert "name" in message


def test_a_word_can_give_what_the_file_lacks(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, "name: a\n"), ["data.root=x y"]).data.root == "x y"


def test_all_impossible_values_are_listed_at_once(minimal: Path) -> None:
    message = refusal(
        minimal, "pretrain.batch_size=0", "cluster.engine=magic", "data.max_skipped_share=2", "pixel_attention.views.scale=[0.5, 0.2]",
        "pseudo_labels.threshold=1.5", "extract_features.crop=999", "finetune.optimizer=adam", "pretrain.lrr=1",
    )  # fmt: skip
    for key in ("pretrain.batch_size", "cluster.engine", "data.max_skipped_share", "pixel_attention.views.scale",
                "pseudo_labels.threshold", "extract_features.crop", "finetune.optimizer", "pretrain.lrr"):  # fmt: skip
        assert key in message
    assert len(message.splitlines()) == 8


@pytest.mark.parametrize(
    "word",
    [
        "pretrain.accumulate=3",
        "pretrain.lr=.nan",
        "pretrain.method.global_views.count=3",
        "pixel_attention.views.count=1",
        "pretrain.backbone.output_stride=5",
        "pretrain.backbone.output_stride=0",
        "pretrain.lr=.inf",
        "pretrain.method.local_views.colours.hue=-1",
        "pretrain.method.global_views.colours.contrast=-1",
        "pretrain.method.clustering.queue_start_epoch=-1",
        "pretrain.method.clustering.sinkhorn_iterations=0",
        "pretrain.method.deep_weight=-1",
        "pretrain.optimizer.clip_norm=0",
        "resources.default.nodes=0",
        "data.extra=[[x]]",
        "cluster.layout_weights=[-1.0]",
        "finetune.label_stride=999",
        "pixel_attention.queue_length=7",
        "name=",
        "pseudo_labels.threshold=often",
        "pseudo_labels.threshold=nan",
        "pseudo_labels.max_aspect=0.5",
        "cluster.num_clusters=70000",
        "seed=-1",
    ],
)
def test_a_value_that_cannot_be_is_refused_naming_its_key(minimal: Path, word: str) -> None:
    assert word.split("=")[0].removesuffix(".accumulate") in refusal(minimal, word)


def numbers(settings: Any) -> list[str]:
    """Keys of all numbers of a settings object."""
    found = OmegaConf.structured(settings)
    values = {key: OmegaConf.select(found, key) for key in all_keys(settings) if key != "data.root"}
    return [key for key, value in values.items() if isinstance(value, (int, float)) and not isinstance(value, bool)]


def test_every_negative_number_is_refused_naming_its_key(minimal: Path) -> None:
    keys = numbers(RunSettings(pretrain=PretrainSettings(method=PassSSettings())))
    assert len(keys) > 150
    refused = refusal(minimal, *(f"{key}=-1" for key in keys)).splitlines()
    assert [key for key in keys if not any(line.startswith(f"{key} is -1") for line in refused)] == []


def test_predicting_without_a_pixel_limit_is_allowed_although_other_limits_must_be_positive(minimal: Path) -> None:
    assert load_config(minimal, ["predict.max_pixels=0"]).predict.max_pixels == 0
    assert "data.max_pixels" in refusal(minimal, "data.max_pixels=0")


def test_a_clustering_loss_without_any_weight_and_a_queue_of_less_than_a_batch_are_refused(minimal: Path) -> None:
    words = ("pretrain.method.deep_weight=0", "pretrain.method.shallow_stages=[]", "pretrain.method.shallow_weights=[]")
    assert "the clustering loss needs one" in refusal(minimal, *words)
    load_config(minimal, [*words, "pretrain.method=swav"])
    assert "pretrain.method.clustering.queue_length is 200" in refusal(
        minimal, "pretrain.method.clustering.queue_length=200"
    )
    load_config(minimal, ["pretrain.method.clustering.queue_length=200", "pretrain.accumulate=2"])


def test_a_variable_that_is_not_there_is_refused_with_the_way_to_name_one(
    minimal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "${oc.env:NAME}" in refusal(minimal, "data.root=${HOME}/photos")
    monkeypatch.setenv("PHOTOS", "/photos")
    assert load_config(minimal, ["data.root=${oc.env:PHOTOS}/new"]).data.root == "/photos/new"


def test_a_block_can_take_over_another_and_change_some_of_it(tmp_path: Path) -> None:
    text = "name: t\ndata: {root: x}\nfinetune: &a {epochs: 3, batch_size: 8}\nsemi_finetune: {<<: *a, batch_size: 4}\n"
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    found = load_config(tmp_path / "c.yaml").semi_finetune
    assert (found.epochs, found.batch_size) == (3, 4)


def test_a_stored_configuration_of_an_earlier_version_is_read_without_what_there_is_no_more(tmp_path: Path) -> None:
    text = "name: t\ndata: {root: x, gone: 1}\nold: {block: 2}\npretrain: {epochs: 7}\n"
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    assert load_stored_config(tmp_path / "config.yaml").pretrain.epochs == 7
    assert "data.gone" in refusal(tmp_path / "config.yaml")


def test_words_win_over_the_file_and_later_words_over_earlier_ones(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL + "pretrain: {epochs: 3, batch_size: 8}\n")
    settings = load_config(path, ["pretrain.epochs=4", "pretrain.epochs=5"])
    assert (settings.pretrain.epochs, settings.pretrain.batch_size) == (5, 8)


def test_a_word_changes_one_key_of_a_block_and_keeps_the_others(minimal: Path) -> None:
    settings = load_config(minimal, ["pretrain.method.global_views.size=96"])
    assert isinstance(settings.pretrain.method, PassSSettings)
    expected = dataclasses.replace(PassSSettings().global_views, size=96)
    assert settings.pretrain.method.global_views == expected


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "0.001", "1.0e-3"])
def test_scientific_notation_is_a_number_in_a_word_and_in_the_file(tmp_path: Path, text: str) -> None:
    from_file = load_config(written(tmp_path, MINIMAL + f"pretrain: {{lr: {text}}}\n"))
    from_word = load_config(written(tmp_path, MINIMAL), [f"pretrain.lr={text}"])
    assert from_file.pretrain.lr == from_word.pretrain.lr == 0.001
    assert isinstance(from_word.pretrain.lr, float)


@pytest.mark.parametrize("text", ["2024", "2023_05", "007", "on", "1:30", "a #b", "null", "[x]", "'quoted'", " spaced"])
def test_a_word_for_a_text_is_that_text_whatever_it_looks_like(minimal: Path, text: str) -> None:
    found = load_config(minimal, [f"name={text}", f"data.root={text}", f"resources.cluster.partition={text}"])
    assert (found.name, found.data.root, found.resources["cluster"].partition) == (text, text, text)


@pytest.mark.parametrize("text", ["2024", "2023_05", "007", "on", "1:30", "null", "1e3", "~"])
def test_a_text_in_the_list_of_a_word_is_that_text_whatever_it_looks_like(minimal: Path, text: str) -> None:
    words = [f"data.extra=[{text}, photos]", f"resources.cluster.setup=[{text}, module load cuda]"]
    found = load_config(minimal, words)
    assert found.resources["cluster"].setup == [text, "module load cuda"]
    assert found.data.extra == [os.path.expanduser(text), "photos"]


@pytest.mark.parametrize("text", ["2024", "2023_05", "007", "on", "1:30", "1e3", "0.450"])
def test_a_text_in_a_file_is_that_text_whatever_it_looks_like(tmp_path: Path, text: str) -> None:
    file = f"name: {text}\ndata: {{root: {text}, extra: [{text}, photos]}}\nresources: {{cluster: {{partition: {text}}}}}\n"
    found = load_config(written(tmp_path, file))
    assert (found.name, found.data.root, found.data.extra) == (text, text, [text, "photos"])
    assert found.resources["cluster"].partition == text


@pytest.mark.parametrize("word", ["data.extra=2023_05", "pretrain.method.shallow_stages=3", "protocols=unsupervised"])
def test_a_word_for_a_list_that_is_none_is_refused_with_the_word_to_type(minimal: Path, word: str) -> None:
    key, value = word.split("=")
    assert refusal(minimal, word) == f"{key} in word {word!r} is a list: {key}=[{value}]"


def test_a_threshold_can_be_a_number_or_a_word(minimal: Path) -> None:
    assert float(load_config(minimal, ["pseudo_labels.threshold=0.3"]).pseudo_labels.threshold) == 0.3
    assert load_config(minimal, ["pseudo_labels.threshold=validation"]).pseudo_labels.threshold == "validation"


def test_a_word_without_an_equals_sign_is_refused_with_an_example(minimal: Path) -> None:
    assert "key=value" in refusal(minimal, "pretrain.epochs")


def test_an_absent_file_is_named_with_its_nearest_neighbour(minimal: Path) -> None:
    message = refusal(minimal.with_name("tril.yaml"))
    assert "does not exist" in message
    assert f"did you mean {minimal}?" in message


@pytest.mark.parametrize("text", ["- a\n- b\n", "- [a]\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    assert "must be a mapping" in refusal(written(tmp_path, text))


def test_broken_yaml_is_refused_with_its_line(tmp_path: Path) -> None:
    message = refusal(written(tmp_path, "name: a\ndata: {root: [\n"))
    assert "cannot be read" in message
    assert "line" in message


def test_yaml_cannot_make_python_objects(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(written(tmp_path, "name: !!python/object/apply:os.getcwd []\n"))


def test_the_output_is_named_after_the_run_unless_it_is_given(minimal: Path) -> None:
    assert load_config(minimal).output == "outputs/trial"
    assert load_config(minimal, ["output=elsewhere"]).output == "elsewhere"


def test_resolved_settings_read_back_as_the_same_settings(minimal: Path, tmp_path: Path) -> None:
    settings = load_config(
        minimal, ["pretrain.method.global_views.scale=[0.3, 0.9]", "data.extra=[train-extra]", "output=a: b #c"]
    )
    copy = tmp_path / "copy.yaml"
    copy.write_text(to_yaml(settings), encoding="utf-8")
    assert load_config(copy) == settings


def test_every_key_is_listed_with_its_block() -> None:
    keys = set(all_keys(RunSettings()))
    assert {"seed", "pretrain", "pretrain.epochs", "pretrain.method.name", "data.shapes.folder"} <= keys


def test_an_unknown_protocol_is_refused_naming_the_known_ones(minimal: Path) -> None:
    message = refusal(minimal, "protocols=[unsupervised, semi_supervized]")
    assert "protocols[1] in word" in message
    assert "expected one of ['unsupervised', 'distance_matching', 'semi_supervised']" in message


def test_a_run_without_any_protocol_is_refused(minimal: Path) -> None:
    assert "protocols is empty" in refusal(minimal, "protocols=[]")


# Several layers, named blocks


def test_files_are_laid_over_each_other_and_words_over_both(minimal: Path) -> None:
    other = minimal.with_name("other.yaml")
    other.write_text("pretrain: {epochs: 9, method: {name: swav, clustering: {num_prototypes: 7}}}\n", encoding="utf-8")
    found = load_config(minimal, [str(other), "pretrain.batch_size=4"])
    assert (found.name, found.pretrain.epochs, found.pretrain.batch_size) == ("trial", 9, 4)
    assert type(found.pretrain.method) is SwAVSettings
    assert found.pretrain.method.clustering.num_prototypes == 7
    assert "pretrain.method.grid_size" in refusal(minimal, str(other), "pretrain.method.grid_size=3")


def test_a_block_with_a_name_can_be_given_by_it_alone(minimal: Path) -> None:
    found = load_config(minimal, ["pretrain.method=swav", "finetune.optimizer=sgd", "pretrain.backbone=resnet50"])
    assert found.pretrain.method == SwAVSettings()
    assert found.finetune.optimizer == OptimizerSettings(name="sgd")
    assert found.pretrain.backbone.name == "resnet50"


def test_another_learner_begins_with_its_own_defaults(minimal: Path) -> None:
    found = load_config(minimal, ["pretrain.method.clustering.num_prototypes=7", "pretrain.method=swav"])
    assert found.pretrain.method == SwAVSettings()
    same = load_config(minimal, ["pretrain.method.clustering.num_prototypes=7", "pretrain.method=pass_s"])
    assert isinstance(same.pretrain.method, PassSSettings)
    assert same.pretrain.method.clustering.num_prototypes == 7


def test_a_setting_of_another_learner_is_refused_with_the_nearest_of_this_one(minimal: Path) -> None:
    message = refusal(minimal, "pretrain.method=swav", "pretrain.method.shallow_stages=[2]")
    assert "unknown setting 'pretrain.method.shallow_stages'" in message
    assert "did you mean 'pretrain.method.clustering'" in refusal(minimal, "pretrain.method.clusterings.epsilon=1")


def test_of_several_settings_of_a_name_the_learner_s_own_is_meant_below_it(minimal: Path) -> None:
    message = refusal(minimal, "pretrain.method.queue_length=64")
    assert "did you mean 'pretrain.method.clustering.queue_length'?" in message


@pytest.mark.parametrize("block", ["pretrain.method.global_views", "pixel_attention.views"])
def test_masks_are_refused_where_nothing_is_hidden(minimal: Path, block: str) -> None:
    assert f"{block}.mask is set" in refusal(minimal, f"{block}.mask={{kind: uniform}}")


def test_a_second_queue_of_the_attention_is_refused(minimal: Path) -> None:
    message = refusal(minimal, "pixel_attention.head.queue_length=64")
    assert "pixel_attention.head.queue_length is not read: set pixel_attention.queue_length" in message


def test_an_unknown_learner_is_refused_with_the_nearest(minimal: Path) -> None:
    assert "did you mean pass_s?" in refusal(minimal, "pretrain.method=pass")


def test_only_the_learner_in_use_is_listed(minimal: Path) -> None:
    text = to_yaml(load_config(minimal, ["pretrain.method=swav"]))
    assert "grid_size" not in text
    assert "num_prototypes" in text
    assert "null" not in text.split("resources:")[1]


def test_resources_of_a_stage_that_there_is_not_are_refused_with_the_nearest(minimal: Path) -> None:
    assert "did you mean 'pretrain'?" in refusal(minimal, "resources.pretrian.nodes=2")
    assert load_config(minimal, ["resources.pretrain.nodes=2"]).resources["pretrain"].nodes == 2


@pytest.mark.parametrize("key", ["name", "output", "data.root", "resources.default.partition"])
def test_a_control_character_is_refused_naming_the_key(minimal: Path, key: str) -> None:
    assert f"{key} is 'x\\nrm -r y': it holds a control character" in refusal(minimal, f"{key}=x\nrm -r y")
    assert "resources.default.setup" in refusal(minimal, 'resources.default.setup=["module load a\\nb"]')


def test_a_tilde_is_the_home_folder(minimal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    found = load_config(minimal, ["output=~/runs/z", "data.root=~/photos", "pretrain.backbone.weights=~/w.pt"])
    assert (found.output, found.data.root) == ("/home/somebody/runs/z", "/home/somebody/photos")
    assert found.pretrain.backbone.weights == "/home/somebody/w.pt"
    assert load_config(minimal, ["pretrain.weights=~/runs/a"]).pretrain.weights == "/home/somebody/runs/a"
    assert load_config(minimal, ["data.root=a~b"]).data.root == "a~b"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_configuration_that_another_system_has_written_is_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.yaml").write_bytes("name: größe\r\ndata: {root: x}\r\n".encode(encoding))
    assert load_config(tmp_path / "a.yaml").name == "größe"


def test_a_configuration_in_letters_that_nobody_can_know_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes("data: {root: x}\nname: größe\n".encode("latin-1"))
    assert "a.yaml, line 2, is not UTF-8 text" in refusal(tmp_path / "a.yaml")


def test_a_home_folder_may_stand_in_every_setting_that_is_a_path(
    minimal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    words = [
        "output=~/run",
        "data.root=~/photos",
        "data.shapes.folder=~/s",
        "data.extra=[~/more]",
        "data.train=~/train",
    ]
    run = load_config(minimal, [*words, "pretrain.backbone.weights=~/w.pth"])
    found = [
        run.output,
        run.data.root,
        run.data.shapes.folder,
        *run.data.extra,
        run.data.train,
        run.pretrain.backbone.weights,
    ]
    assert found == [f"/home/somebody/{name}" for name in ("run", "photos", "s", "more", "train", "w.pth")]
