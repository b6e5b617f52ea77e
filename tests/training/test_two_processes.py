"""Two processes compute together what one computes alone at the same global batch."""

from pathlib import Path

import pytest
import torch
import two_processes
from torch import Tensor
from two_at_once import Results, on_two

from luss import processes
from luss.errors import LussError

SCRIPT = Path(two_processes.__file__)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return on_two(SCRIPT, two_processes.measure, tmp_path_factory.mktemp("processes"))


def joined(results: Results, topic: str, name: str) -> Tensor:
    """The rows of both processes; sums of what is shared; for what must be the same everywhere, that."""
    parts = [result[topic][name] for result in results.together]
    if name.startswith("same_"):
        assert torch.equal(parts[0], parts[1]), name
        return parts[0]  # type: ignore[no-any-return]
    if name.startswith("sum_"):
        return parts[0] + parts[1]  # type: ignore[no-any-return]
    if name.startswith("mean_"):
        return (parts[0] + parts[1]) / 2  # type: ignore[no-any-return]
    # Data-parallel training halves each process's gradient.
    return torch.cat(parts) / (2 if name.startswith("shared_") else 1)


@pytest.mark.parametrize("topic", ["vectors", "maps", "plain"])
def test_batch_norm_over_two_processes_equals_that_of_one(results: Results, topic: str) -> None:
    names = set(results.alone[topic])
    assert {"output0", "gradient0", "output1", "same_0.running_mean", "same_0.running_var"} <= names
    assert ("sum_0.weight" in names) == (topic != "plain")
    for name in names:
        torch.testing.assert_close(joined(results, topic, name), results.alone[topic][name], rtol=1e-3, atol=1e-4)


def test_batch_norm_in_evaluation_uses_and_keeps_its_own_statistics(results: Results) -> None:
    for name, value in results.alone["eval"].items():
        torch.testing.assert_close(joined(results, "eval", name), value, rtol=1e-4, atol=1e-4)
    assert not results.alone["eval"]["same_0.running_mean"].any()


def test_codes_are_balanced_over_both_processes(results: Results) -> None:
    codes = joined(results, "sinkhorn", "codes")
    torch.testing.assert_close(codes, results.alone["sinkhorn"]["codes"], rtol=1e-4, atol=1e-6)


def test_the_queue_and_the_codes_that_use_it_are_those_of_one_process(results: Results) -> None:
    for name, value in results.alone["queue"].items():
        torch.testing.assert_close(joined(results, "queue", name), value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("topic", ["alignment", "no_alignment"])
def test_pairs_count_equally_however_they_are_spread_over_processes(results: Results, topic: str) -> None:
    for name in ("mean_loss", "shared_gradient"):
        torch.testing.assert_close(joined(results, topic, name), results.alone[topic][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("topic", ["contrast", "weighted_contrast"])
def test_gathered_rows_send_back_the_gradients_of_all_processes_losses(results: Results, topic: str) -> None:
    for name in ("mean_loss", "shared_gradient"):
        torch.testing.assert_close(joined(results, topic, name), results.alone[topic][name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("topic", ["pretraining", "accumulated"])
def test_pretraining_on_two_processes_logs_the_losses_of_one(results: Results, topic: str) -> None:
    alone, together = results.alone[topic]["log"], results.together[0][topic]["log"]
    assert [line["step"] for line in together] == [0, 1, 2, 3]
    for step in range(3):
        for name in ("loss", "swav", "d2s_2", "d2s_3", "p2p"):
            assert together[step][name] == pytest.approx(alone[step][name], rel=1e-4, abs=1e-4), (step, name)
    assert alone[0]["loss"] != pytest.approx(alone[2]["loss"], abs=1e-3)


@pytest.mark.parametrize("topic", ["pretraining", "accumulated"])
def test_pretraining_on_two_processes_learns_the_weights_of_one(results: Results, topic: str) -> None:
    alone = results.alone[topic]["weights"]
    for result in results.together:
        together = result[topic]["weights"]
        assert together.keys() == alone.keys()
        for name, tensor in alone.items():
            assert torch.allclose(together[name].double(), tensor.double(), rtol=1e-2, atol=2e-3), name


def test_processes_agree_on_decisions_and_means(results: Results) -> None:
    assert results.alone["decisions"] == {"any": True, "none": False, "mean": 1.0, "share": 4}
    assert [result["decisions"] for result in results.together] == [
        {"any": True, "none": False, "mean": 1.5, "share": 2}
    ] * 2


@pytest.mark.parametrize(("batch_size", "accumulate"), [(8, 3), (8, 0), (2, 4)])
def test_a_batch_that_cannot_be_shared_out_is_an_error(batch_size: int, accumulate: int) -> None:
    with pytest.raises(LussError, match=rf"finetune\.batch_size is {batch_size}"):
        processes.share_of_batch(batch_size, accumulate, key="finetune")


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    device = torch.device("cpu")
    assert processes.start(device) == device
    assert (processes.rank(), processes.world_size()) == (0, 1)
    processes.barrier()
    processes.stop()
