"""A run that takes other people's weights in place of pretraining."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from running import Launcher, results
from safetensors.torch import load_file

from luss.config import load_config
from luss.errors import LussError
from luss.files import read_json
from luss.models.build import build_backbone
from stages.pipeline import ATTENTION, PRETRAIN
from stages.running.preflight import preflight
from stages.running.state import States

SHORT = ["pixel_attention.epochs=1", "finetune.epochs=1", "cluster.num_restarts=1", "evaluate.workers=1"]


def test_every_stage_runs_on_given_weights_without_pretraining(luss: Launcher, config: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    own = build_backbone("test_resnet").export()
    given = {"epoch": 7, "state_dict": {f"module.encoder_q.{name}": tensor for name, tensor in own.items()}}
    given["state_dict"]["module.encoder_q.fc.weight"] = torch.ones(3, 96)
    torch.save(given, tmp_path / "moco.pth")
    run = tmp_path / "run"
    words = ["pretrain.epochs=0", f"pretrain.backbone.weights={tmp_path / 'moco.pth'}", *SHORT]
    outcome = luss("run", str(config), f"output={run}", *words)
    assert outcome.code == 0, outcome.output
    assert "left out 1 tensors (module.encoder_q.fc.weight)" in outcome.output
    kept = load_file(run / "pretrain" / "backbone.safetensors")
    assert all(torch.equal(kept[name], tensor) for name, tensor in own.items())
    assert "pretraining left no prototypes: a clustering head trains beside the attention" in outcome.output
    assert read_json(run / "pixel_attention" / "DONE.json")["figures"]["steps"] > 0
    assert (run / "evaluate" / "metrics.json").is_file()
    assert len(list((run / "predict" / "masks").rglob("*.png"))) == 20


@pytest.mark.parametrize(
    ("key", "content", "named"),
    [
        ("pretrain.backbone.weights", {"blocks.0.weight": torch.ones(3)}, "does not fit the backbone 'test_resnet'"),
        ("pretrain.backbone.weights", b"no weights", "cannot be read as weights"),
        ("pretrain.backbone.weights", None, "does not exist"),
        ("pretrain.weights", build_backbone("test_resnet").export(), "holds no heads of PassS"),
    ],
)
def test_weights_that_cannot_be_used_are_told(
    luss: Launcher, config: Path, tmp_path: Path, key: str, content: object, named: str
) -> None:
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    outcome = luss("run", str(config), f"output={tmp_path / 'run'}", f"{key}={path}", "--until", "pretrain")
    assert outcome.code == 2
    assert named in outcome.output
    assert "Traceback" not in outcome.output
    # Before images are listed, which takes hours where there are many.
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_given_the_pretraining_of_another_makes_what_that_one_made(
    luss: Launcher, config: Path, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ("pretrain.epochs=0", f"pretrain.weights={finished}", "--until", "pseudo_labels")
    outcome = luss("run", str(config), f"output={run}", *words)
    assert outcome.code == 0, outcome.output
    assert "took the backbone and" in outcome.output
    assert "a clustering head trains" not in outcome.output
    given, made = results(finished), results(run)
    for name in [name for name in made if "/features/" in name]:
        # Behind its numbers a shard says whose it is.
        assert given.pop(name) != made.pop(name)
        assert np.array_equal(np.load(finished / name), np.load(run / name))
    made = {name: value for name, value in made.items() if not name.startswith(("pretrain/", "finetune/"))}
    assert {"cluster/centroids.npy", "pixel_attention/attention.safetensors"} <= set(made)
    assert made == {name: given[name] for name in made}
    heads = [load_file(folder / "pretrain" / "method.safetensors") for folder in (finished, run)]
    assert torch.equal(*(each["clustering.prototypes.weight"] for each in heads))
    record = read_json(run / "pretrain" / "given.json")
    assert record["source"] == str(finished)
    assert "clustering.prototypes.weight" in record["heads"]["taken"]


def test_a_pretraining_that_goes_on_from_given_prototypes_starts_at_them(
    luss: Launcher, config: Path, finished: Path, tmp_path: Path
) -> None:
    # They are frozen during the first two steps; this training has one.
    words = (
        "pretrain.epochs=1",
        "pretrain.batch_size=60",
        "pretrain.method.clustering.queue_length=0",
        f"pretrain.weights={finished}/pretrain",
    )
    outcome = luss("run", str(config), f"output={tmp_path}", *words, "--until", "pretrain")
    assert outcome.code == 0, outcome.output
    before, after = (load_file(folder / "pretrain" / "method.safetensors") for folder in (finished, tmp_path))
    name = "clustering.prototypes.weight"
    torch.testing.assert_close(after[name], torch.nn.functional.normalize(before[name], dim=1))
    assert not torch.equal(before["clustering.projector.0.weight"], after["clustering.projector.0.weight"])


def test_weights_that_change_under_their_name_make_the_run_stale_and_those_that_are_gone_do_not(
    luss: Launcher, config: Path, tmp_path: Path
) -> None:
    path, run = tmp_path / "weights.pth", tmp_path / "run"
    words = (f"output={run}", "pretrain.epochs=0", f"pretrain.backbone.weights={path}")
    own = build_backbone("test_resnet").export()
    torch.save(own, path)
    outcome = luss("run", str(config), *words, "--until", "pretrain")
    assert outcome.code == 0, outcome.output
    settings = load_config(config, words)
    assert States(settings).of(PRETRAIN).kind == "done"
    before = States(settings).fingerprint(ATTENTION)
    torch.save({name: tensor + 1 for name, tensor in own.items()}, path)
    state = States(settings).of(PRETRAIN)
    assert (state.kind, state.detail) == ("stale", f"the weights {path} are others now")
    assert States(settings).fingerprint(ATTENTION) != before
    outcome = luss("run", str(config), *words, "--until", "pretrain")
    assert "pretrain: runs anew" in outcome.output
    assert States(settings).of(PRETRAIN).kind == "done"
    path.unlink()
    assert States(settings).of(PRETRAIN).kind == "done"


@pytest.mark.parametrize(("setting", "start"), [("false", 1.0), ("true", 0.0)])
def test_random_weights_start_their_residual_branches_where_it_is_asked_for(
    luss: Launcher, config: Path, tmp_path: Path, setting: str, start: float
) -> None:
    words = ["pretrain.epochs=0", f"pretrain.backbone.zero_init_residual={setting}", "--until", "pretrain"]
    outcome = luss("run", str(config), f"output={tmp_path / 'run'}", *words)
    assert outcome.code == 0, outcome.output
    kept = load_file(tmp_path / "run" / "pretrain" / "backbone.safetensors")
    last = [tensor for name, tensor in kept.items() if name.endswith((".bn3.weight", ".bn2.weight"))]
    assert last
    assert any((tensor == 0).all() for tensor in last) == (start == 0.0)


@pytest.mark.parametrize(
    "word", ["weights={run}", "weights={run}/pretrain", "backbone.weights={run}/pretrain/backbone.safetensors"]
)
def test_a_run_cannot_be_given_its_own_pretraining(config: Path, finished: Path, word: str) -> None:
    words = [f"output={finished}", "pretrain.epochs=0", f"pretrain.{word.format(run=finished)}"]
    with pytest.raises(LussError, match="the pretraining of this very run"):
        preflight(load_config(config, words), Console())
