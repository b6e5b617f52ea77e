"""What every learner promises. A new one inherits these tests by being registered, and adds its number of parameters to a table."""

import dataclasses
import math
from pathlib import Path

import pytest
import small_methods
import torch
from small_methods import BATCH, NUM_STEPS, built, small, train, views_for
from two_at_once import Results, on_two

from luss.config import load_config, to_yaml
from luss.data.manifest import Manifest
from luss.data.views import Views
from luss.errors import LussError
from luss.methods import METHODS, method_class
from luss.methods.base import Given, Method
from luss.models.build import build_backbone, create_timm
from luss.progress import Interrupted
from luss.settings import PretrainSettings, RunSettings
from luss.settings.fields import all_keys, problems
from luss.training.checkpoint import load_newest
from luss.training.task import Progress

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")

# With default settings: the network, and what all of the learner has.
PARAMETERS = {
    # 11,176,512 of the backbone, 512 x 512 + 512 + 2 x 512 + 512 x 128 + 128 of the projector, 500 x 128 of the prototypes.
    "swav": ("resnet18", 11_569_856),
    # As published, see test_pass_s.py.
    "pass_s": ("resnet18", 12_919_488),
    # 512 x 50 + 50 of the classifier.
    "supervised": ("resnet18", 11_202_162),
    # 512 x 512 + 2 x 512 + 512 x 128 + 2 x 128 of the projector, whose last norm has a frozen shift.
    "simclr": ("resnet18", 11_505_472),
    # 512 x 512 + 512 + 512 x 128 + 128 of the projector; all that is the teacher's too.
    "moco_v2": ("resnet18", 2 * 11_504_832),
    # 512 x 2048 + 2048 + 2048 x 128 + 128 twice; all that is the teacher's too.
    "densecl": ("resnet18", 2 * 13_802_304),
    # 2 x 512 x 512 + 4 x 512 + 512 x 2048 of the projector, 2 x 2048 x 512 + 2 x 512 + 2048 of the predictor.
    "simsiam": ("resnet18", 14_851_648),
    # 512 x 4096 + 3 x 4096 + 4096 x 256 of the projector, as much with 256 in place of 512 of the predictor; all but that is the teacher's too.
    "byol": ("resnet18", 2 * 14_334_528 + 2_109_440),
    # 512 x 4096 + 3 x 4096 + 4096 x 256 + 256 of the projector, 256 x 256 + 256 of the propagation; all but that is the teacher's too.
    "pixpro": ("resnet18", 2 * 14_334_784 + 65_792),
    # PixPro, and 393,344 of the clustering head, 625,024 of the alignment, 724,608 and 528,000 of the heads of stages 3 and 2.
    "pass_p": ("resnet18", 2 * 14_334_784 + 65_792 + 393_344 + 625_024 + 724_608 + 528_000),
}
# Learners that compute something else on two processes, and why that has to be.
NOT_ON_TWO: dict[str, str] = {}

every_method = pytest.mark.parametrize("name", METHODS)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return small_methods.pictures(tmp_path_factory.mktemp("pictures"))


def batch_for(method: Method, manifest: Manifest, *, epoch: int = 0) -> Views:
    """One batch as it reaches the learner in training."""
    dataset = views_for(method, manifest)
    batch: Views = method.prepare(dataset.collate([dataset[epoch, index] for index in range(BATCH)]), CPU)
    return batch


def at(step: int) -> Progress:
    return Progress(step, 20, 2)


@every_method
def test_the_loss_is_finite_and_some_steps_on_one_batch_lower_it(name: str, manifest: Manifest) -> None:
    method = built(name).train()
    batch = batch_for(method, manifest)
    optimizer = torch.optim.Adam([weight for weight in method.parameters() if weight.requires_grad], lr=1e-3)
    losses = []
    queues = {key: tensor.clone() for key, tensor in method.state_dict().items() if "queue" in key}
    for step in range(8):
        # A queue of keys would hold the batch's own, more of them at every step.
        method.load_state_dict(queues, strict=False)
        optimizer.zero_grad(set_to_none=True)
        output = method(batch, at(step))
        output.loss.backward()
        method.after_backward(at(step))
        optimizer.step()
        method.after_step(at(step))
        losses.append(float(output.loss.detach()))
        assert all(not scalar.requires_grad for scalar in output.scalars.values())
    assert all(map(math.isfinite, losses))
    assert losses[-1] < 0.8 * losses[0]


@every_method
def test_every_weight_that_trains_gets_a_finite_gradient(name: str, manifest: Manifest) -> None:
    """One that no loss reaches would stop distributed training."""
    method = built(name).train()
    method(batch_for(method, manifest), at(0)).loss.backward()
    gradients = {name: weight.grad for name, weight in method.named_parameters() if weight.requires_grad}
    assert gradients
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert [
        name for name, gradient in gradients.items() if gradient is not None and not gradient.isfinite().all()
    ] == []


@every_method
def test_the_views_are_those_that_were_asked_for(name: str, manifest: Manifest) -> None:
    method = built(name)
    groups = batch_for(method, manifest).groups
    assert len(groups) == len(method.views)
    for group, asked in zip(groups, method.views, strict=True):
        assert group.images.shape == (asked.count, BATCH, 3, asked.size, asked.size)
        assert group.images.dtype == torch.float32
        assert (group.masks is not None) == (asked.mask is not None)


@every_method
def test_a_training_that_is_stopped_and_resumed_has_the_bits_of_one_never_stopped(
    name: str, manifest: Manifest, tmp_path: Path
) -> None:
    whole = train(built(name), manifest, tmp_path / "whole")
    # Within an epoch; with other weights at first: everything must come from the checkpoint.
    with pytest.raises(Interrupted):
        train(built(name), manifest, tmp_path / "stopped", stop_after=NUM_STEPS - 1)
    resumed = train(built(name, seed=99), manifest, tmp_path / "stopped")
    assert resumed.column("loss") == whole.column("loss")[NUM_STEPS - 1 :]
    states = [load_newest(tmp_path / run, warn=pytest.fail) for run in ("whole", "stopped")]
    assert all(state is not None and state["step"] == NUM_STEPS for state in states)
    for part in ("model", "optimizer", "random"):
        torch.testing.assert_close(*(state[part] for state in states if state), rtol=0, atol=0)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """All learners, on one process and on two that are started once."""
    return on_two(Path(small_methods.__file__), small_methods.measure, tmp_path_factory.mktemp("processes"))


@pytest.mark.slow
@every_method
def test_two_processes_learn_what_one_learns(name: str, results: Results) -> None:
    if name in NOT_ON_TWO:
        pytest.skip(NOT_ON_TWO[name])
    alone, start = results.alone[name], built(name).state_dict()
    assert any(loss != pytest.approx(alone["losses"][0], rel=0.01) for loss in alone["losses"])
    for together in (result[name] for result in results.together):
        assert together["losses"] == pytest.approx(alone["losses"], rel=0.02)
        assert together["losses"][0] == pytest.approx(alone["losses"][0], rel=1e-5)
        for key, tensor in alone["weights"].items():
            # What was learned, not what it began with; rounding errors grow from step to step.
            learned, difference = (
                tensor.double() - start[key].double(),
                together["weights"][key].double() - tensor.double(),
            )
            assert float(difference.norm()) <= 0.25 * float(learned.norm()) + 1e-5, key


@every_method
def test_exported_weights_load_strictly_into_timm_and_give_the_same_features(name: str, manifest: Manifest) -> None:
    method = built(name)
    batch = batch_for(method, manifest)
    method.train()(batch, at(0))
    exported = method.exported().eval()
    options = {"dynamic_img_size": True} if exported.patch else {}
    plain = create_timm(exported.name, **options)
    plain.load_state_dict(exported.export(), strict=True)
    plain.eval()
    images = batch.groups[0].images[0]
    with torch.no_grad():
        last, expected = exported(images).last, plain.forward_features(images)
    if exported.patch:
        expected = expected[:, plain.num_prefix_tokens :].transpose(1, 2).reshape(last.shape)
    torch.testing.assert_close(last, expected)


@every_method
def test_default_settings_give_as_many_parameters_as_published(name: str) -> None:
    backbone, expected = PARAMETERS[name]
    with torch.device("meta"):
        given = Given(
            lambda: build_backbone(backbone),
            images_a_pass=256,
            base=lambda: build_backbone(backbone),
            categories=lambda: torch.arange(50, device="cpu"),
        )
        method = method_class(name)(method_class(name).Settings(), given)
    assert sum(parameter.numel() for parameter in method.parameters()) == expected


# Settings


def configured(folder: Path, *words: str) -> RunSettings:
    path = folder / "run.yaml"
    path.write_text("name: small\ndata: {root: shapes}\n")
    return load_config(path, words)


@every_method
def test_default_settings_have_no_problems(name: str) -> None:
    settings = method_class(name).Settings()
    assert settings.name == name
    assert list(problems(settings)) == []
    assert settings.fits(PretrainSettings()) == []


@every_method
def test_a_configuration_that_names_a_learner_has_its_settings(name: str, tmp_path: Path) -> None:
    assert configured(tmp_path, f"pretrain.method={name}").pretrain.method == method_class(name).Settings()


@every_method
def test_settings_of_another_learner_are_refused(name: str, tmp_path: Path) -> None:
    own = set(all_keys(method_class(name).Settings()))
    others = {key for other in METHODS for key in all_keys(method_class(other).Settings()) if "." not in key}
    assert others - own
    for key in [*sorted(others - own), "setting_of_a_stranger"]:
        found = rf"unknown setting 'pretrain\.method\.{key}'.* did you mean 'pretrain\.method\."
        with pytest.raises(LussError, match=found):
            configured(tmp_path, f"pretrain.method={name}", f"pretrain.method.{key}=1")


@every_method
def test_changed_settings_survive_their_yaml(name: str, tmp_path: Path) -> None:
    settings = configured(tmp_path, f"pretrain.method={name}", f"pretrain.batch_size={BATCH}")
    settings.pretrain.method = small(name)
    assert settings.pretrain.method != method_class(name).Settings()
    (tmp_path / "again.yaml").write_text(to_yaml(settings))
    again = load_config(tmp_path / "again.yaml")
    assert again == settings
    assert dataclasses.asdict(again.pretrain.method) == dataclasses.asdict(small(name))
