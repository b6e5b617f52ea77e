"""What every stage promises, once for all that `stages.pipeline` knows: a new one inherits it by being named there."""

import dataclasses
from pathlib import Path

import pytest

from luss.config import load_config
from luss.settings.fields import changing_settings
from stages.base import AnyStage, fingerprint
from stages.commands import stage as stage_command
from stages.jobs.resources import resources_of
from stages.pipeline import PROTOCOLS, STAGES
from stages.running.runner import select

pytestmark = pytest.mark.slow

EVERY = pytest.mark.parametrize("stage", STAGES.values(), ids=list(STAGES))


@EVERY
def test_it_has_a_block_of_its_own_whose_changes_it_names(stage: AnyStage, config: Path) -> None:
    run = load_config(config)
    block = stage.block(run)
    assert dataclasses.is_dataclass(block)
    named = set(stage.settings(run))
    assert {key.partition(".")[0] for key in named} <= {stage.name, "data", "seed"}
    # The manifest's block is that of the data, some of whose settings decide only what is done with the images.
    assert stage.name == "manifest" or {f"{stage.name}.{key}" for key in changing_settings(block)} <= named


@EVERY
def test_it_comes_after_what_it_needs_and_belongs_to_a_protocol(stage: AnyStage) -> None:
    names = list(STAGES)
    assert all(names.index(need.name) < names.index(stage.name) for need in stage.needs)
    assert any(stage in protocol.stages for protocol in PROTOCOLS.values())


@EVERY
def test_its_identity_hangs_on_its_version_and_on_what_it_needs(
    stage: AnyStage, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = load_config(config)
    before = fingerprint(stage, run)
    assert fingerprint(stage, run) == before
    for changed in {stage, *stage.needs}:
        with monkeypatch.context() as patch:
            patch.setattr(type(changed), "version", type(changed).version + 1)
            assert fingerprint(stage, run) != before


@EVERY
def test_it_can_be_chosen_alone_started_alone_and_has_a_job(
    stage: AnyStage, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = load_config(config)
    assert select(run, only=stage.name) == [stage]
    with pytest.raises(SystemExit) as ended:
        stage_command.main([stage.name, "--help"])
    assert ended.value.code == 0
    help_text = capsys.readouterr().out
    assert f"python -m stages {stage.name}" in help_text
    assert ("--shard" in help_text) == stage.sharded
    resources = resources_of(run, stage, {})
    assert resources.num_tasks >= 1
    assert (resources.num_tasks > 1) <= stage.distributed
    assert (type(stage).__doc__ or "").strip()
