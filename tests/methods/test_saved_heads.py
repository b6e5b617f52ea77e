"""A learner's heads as files, and what the pixel attention finds in them."""

from pathlib import Path

import pytest
import torch
from tiny_pass import tiny_pass_s, tiny_swav

from luss.errors import LussError
from luss.methods.saved import DESCRIPTION, WEIGHTS, load_heads, save_heads
from luss.models.io import load_tensors


def saved(folder: Path) -> Path:
    method = tiny_pass_s(clustering={"temperature": 0.2, "num_prototypes": 9})
    save_heads(folder, method, method.prototypes())
    return folder


def test_a_clustering_head_comes_back_with_its_settings_and_weights(tmp_path: Path) -> None:
    head = load_heads(saved(tmp_path))
    method = tiny_pass_s(clustering={"temperature": 0.2, "num_prototypes": 9})
    assert head is not None
    assert head.settings == method.clustering.settings
    expected = method.clustering.state_dict()
    assert head.state.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in head.state.items())


def test_the_heads_file_holds_everything_but_the_backbone(tmp_path: Path) -> None:
    names = {name.split(".")[0] for name in load_tensors(saved(tmp_path) / WEIGHTS)}
    assert names == {"clustering", "pixel_projector", "pixel_predictor", "shallow"}


def test_a_learner_that_leaves_no_trained_prototypes_leaves_no_clustering_head(tmp_path: Path) -> None:
    save_heads(tmp_path, tiny_swav(), None)
    assert load_heads(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", DESCRIPTION),
        ("{}", "wrong entry.*clustering"),
        ('{"clustering": {"prefix": "clustering.", "settings": {"colour": 1}}}', "wrong entry.*colour"),
        ('{"clustering": {"settings": {}}}', "wrong entry.*prefix"),
    ],
)
def test_a_damaged_description_is_an_error_that_names_the_file(tmp_path: Path, text: str, said: str) -> None:
    (saved(tmp_path) / DESCRIPTION).write_text(text)
    with pytest.raises(LussError, match=said):
        load_heads(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_damaged_weights_are_an_error_that_names_the_file(tmp_path: Path, damage: str) -> None:
    path = saved(tmp_path) / WEIGHTS
    path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(LussError, match=WEIGHTS):
        load_heads(tmp_path)
