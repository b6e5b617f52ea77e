"""A run that takes other people's weights in place of pretraining."""

from pathlib import Path

import pytest
import torch
from running import Launcher
from safetensors.torch import load_file

from luss.files import read_json
from luss.models.build import build_backbone

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
    ("content", "named"),
    [
        ({"blocks.0.weight": torch.ones(3)}, "does not fit the backbone 'test_resnet'"),
        (b"no weights", "cannot be read as weights"),
        (None, "does not exist"),
    ],
)
def test_weights_that_cannot_be_used_are_told(
    luss: Launcher, config: Path, tmp_path: Path, content: object, named: str
) -> None:
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    outcome = luss(
        "run", str(config), f"output={tmp_path / 'run'}", f"pretrain.backbone.weights={path}", "--until", "pretrain"
    )
    assert outcome.code == 2
    assert named in outcome.output
    assert "Traceback" not in outcome.output


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
