"""A step of every training is tried before any image is read."""

from pathlib import Path

import pytest
import torch

from luss.config import load_config, shipped_configs
from luss.errors import LussError
from luss.settings import TrainSettings
from stages.pipeline import PRETRAIN, STAGES, stages_of
from stages.running import preflight as checks
from stages.running.preflight import preflight
from stages.running.screen import Console

RUNS = ("demo", "objects27_cpu", "objects27_cpu_published", "imagenet_s50")


def overlays() -> list[tuple[str, str]]:
    folders = {"methods": "objects27_cpu", "imagenet_s50": "imagenet_s50"}
    return [(folders[name.partition("/")[0]], name) for name in shipped_configs() if "/" in name]


@pytest.mark.parametrize(
    ("words", "stage"),
    [
        (["finetune.batch_size=1"], "finetune"),
        # A view after the other: each is a batch of its own.
        (["pretrain.method=byol", "pretrain.batch_size=1"], "pretrain"),
        (["pretrain.method=swav", "pretrain.method.local_views.count=0", "pretrain.method.global_views.size=32",
          "pretrain.method.clustering.queue_length=0", "pixel_attention.attention_batch=each_view",
          "pixel_attention.batch_size=1", "pixel_attention.queue_length=0", "pixel_attention.target_stride=32"],
         "pixel_attention"),
    ],
)  # fmt: skip
def test_a_norm_over_one_value_is_refused_before_any_image_is_read(
    config: Path, tmp_path: Path, words: list[str], stage: str
) -> None:
    run = load_config(config, [f"output={tmp_path / 'run'}", *words])
    with pytest.raises(
        LussError, match=rf"{stage} cannot take a step .*one image a process: raise {stage}\.batch_size"
    ):
        preflight(run, Console(quiet=True))
    assert not (tmp_path / "run").exists()


def test_what_is_done_or_does_not_train_is_not_tried(
    config: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    for stage in STAGES.values():
        monkeypatch.setattr(stage, "try_step", lambda run, images, name=stage.name: tried.append(name))
    checks._check_steps(load_config(config, [f"output={finished}"]))
    assert tried == []
    checks._check_steps(load_config(config, [f"output={tmp_path}", "pretrain.epochs=0"]))
    assert tried == ["pixel_attention", "finetune"]


def test_a_trial_leaves_the_random_numbers_of_the_process_as_they_were(config: Path, tmp_path: Path) -> None:
    run, before = load_config(config, [f"output={tmp_path}"]), torch.get_rng_state()
    checks._check_steps(run)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_every_training_of_the_shipped_configurations_takes_a_step(name: str, tmp_path: Path) -> None:
    run = load_config(name, [f"output={tmp_path}", "protocols=[unsupervised,semi_supervised]"])
    trained = [stage for stage in stages_of(run).values() if isinstance(stage.block(run), TrainSettings)]
    assert len(trained) == 4
    for stage in trained:
        stage.try_step(run, 2)


@pytest.mark.slow
@pytest.mark.parametrize(("base", "overlay"), overlays(), ids=lambda name: name)
def test_every_shipped_learner_takes_a_step(base: str, overlay: str, tmp_path: Path) -> None:
    PRETRAIN.try_step(load_config(base, [overlay, f"output={tmp_path}"]), 2)
