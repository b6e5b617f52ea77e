"""The supervised baseline: labels are read where they are asked for alone, and said."""

import pytest
import torch
import torch.nn.functional as F
from golden_network import given
from views_of import views_of

from luss.errors import LussError
from luss.methods import METHODS, method_class
from luss.methods.base import Given
from luss.methods.supervised import Supervised, SupervisedSettings
from luss.training.task import Progress


def with_categories(*numbers: int) -> Given:
    return Given(given(4).backbone, 4, categories=lambda: torch.tensor(numbers))


def test_the_loss_is_the_cross_entropy_of_images_that_have_a_category() -> None:
    torch.manual_seed(0)
    method = Supervised(SupervisedSettings(), with_categories(2, -1, 0, 1)).eval()
    views = views_of(torch.randn(2, 4, 3, 16, 16))
    output = method(views, Progress(0, 10))
    logits = method.classifier(method.backbone(views.groups[0].flat()).pooled())
    known = [0, 2, 3, 4, 6, 7]
    torch.testing.assert_close(output.loss, F.cross_entropy(logits[known], torch.tensor([2, 0, 1, 2, 0, 1])))
    right = (logits[known].argmax(dim=1) == torch.tensor([2, 0, 1, 2, 0, 1])).float().mean()
    torch.testing.assert_close(output.scalars["accuracy"], right)


def test_a_batch_without_any_category_teaches_nothing() -> None:
    method = Supervised(SupervisedSettings(), with_categories(-1, -1, -1, -1, 0, 1))
    output = method(views_of(torch.randn(1, 4, 3, 16, 16)), Progress(0, 10))
    output.loss.backward()
    assert float(output.loss.detach()) == 0
    assert method.classifier.weight.grad is not None
    assert not method.classifier.weight.grad.any()


@pytest.mark.parametrize("numbers", [(-1, -1), (0, 0)])
def test_images_without_categories_are_refused(numbers: tuple[int, ...]) -> None:
    with pytest.raises(LussError, match="not sorted into a folder a category"):
        Supervised(SupervisedSettings(), with_categories(*numbers))


def test_only_the_supervised_learner_reads_labels() -> None:
    assert [name for name in METHODS if method_class(name).Settings.USES_LABELS] == ["supervised"]
