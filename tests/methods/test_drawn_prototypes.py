"""Prototypes that are drawn from the embeddings during the first steps."""

import torch
import torch.nn.functional as F

from luss.methods.clustering import OnlineClustering
from luss.settings import ClusteringSettings
from luss.training.task import Progress


def clustering(num_prototypes: int, draw: int) -> OnlineClustering:
    torch.manual_seed(0)
    settings = ClusteringSettings(
        num_prototypes=num_prototypes,
        embedding_dim=8,
        hidden_dim=16,
        queue_length=0,
        freeze_prototypes_steps=0,
        draw_prototypes_steps=draw,
    )
    return OnlineClustering(12, settings, batch_size=6)


def step(module: OnlineClustering, vectors: torch.Tensor, number: int) -> torch.Tensor:
    loss, _, _ = module.loss([vectors], Progress(number, 100), num_images=6)
    return loss


def test_the_newest_embeddings_become_prototypes_and_replace_the_oldest() -> None:
    module = clustering(9, draw=5)
    batches = [torch.randn(12, 12) for _ in range(2)]
    for number, vectors in enumerate(batches):
        step(module, vectors, number)
    expected = [module.embed(vectors)[:6] for vectors in batches]
    weight = module.prototypes.weight
    # Six rows a step into nine places: the second step fills 6, 7, 8, 0, 1, 2.
    assert torch.allclose(weight[[6, 7, 8, 0, 1, 2]], expected[1], atol=1e-5)
    assert torch.allclose(weight[3:6], expected[0][3:], atol=1e-5)


def test_drawn_prototypes_get_no_gradient_and_later_ones_do() -> None:
    module = clustering(9, draw=1)
    vectors = torch.randn(12, 12)
    step(module, vectors, 0).backward()  # type: ignore[no-untyped-call]
    module.drop_frozen_gradient(Progress(0, 100))
    assert module.prototypes.weight.grad is None
    before = module.prototypes.weight.detach().clone()
    step(module, vectors, 1).backward()  # type: ignore[no-untyped-call]
    module.drop_frozen_gradient(Progress(1, 100))
    assert module.prototypes.weight.grad is not None
    assert torch.allclose(F.normalize(before, dim=1), module.prototypes.weight.detach())


def test_evaluation_draws_nothing() -> None:
    module = clustering(9, draw=5).eval()
    before = module.prototypes.weight.detach().clone()
    step(module, torch.randn(12, 12), 0)
    assert torch.equal(before, module.prototypes.weight)
