"""Prototypes, codes and the queue of past embeddings: the part that SwAV, PASS_s and pixel attention share."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luss import processes
from luss.losses.sinkhorn import sinkhorn
from luss.losses.swapped_prediction import swapped_prediction
from luss.methods.health import effective_rank, normalised_entropy
from luss.methods.queue import pushed
from luss.models.heads import image_projector
from luss.settings import ClusteringSettings
from luss.training.task import Progress


class OnlineClustering(nn.Module):
    """Projects image vectors, scores them against prototypes and computes balanced codes (SwAV section 3.1).

    The queue is the same on every process: it holds the newest embeddings of the global batch, newest first, so a checkpoint can be
    resumed with another number of processes. Codes use it only when it is full.
    """

    queue: Tensor
    queue_filled: Tensor

    def __init__(self, in_dim: int, settings: ClusteringSettings, *, batch_size: int, num_assigning: int = 2) -> None:
        """Builds projector, prototypes and an empty queue.

        Args:
            in_dim: Size of the pooled vectors.
            settings: Sizes, temperature, Sinkhorn and queue settings.
            batch_size: Images a forward pass over all processes; the queue's length is rounded down to a multiple of it.
            num_assigning: Views whose codes supervise the others; each has its own queue.
        """
        super().__init__()
        self.settings = settings
        self.projector = image_projector(
            in_dim, settings.hidden_dim, settings.embedding_dim, last_norm=settings.projector_norm
        )
        self.prototypes = nn.Linear(settings.embedding_dim, settings.num_prototypes, bias=False)
        length = settings.queue_length // batch_size * batch_size
        self.register_buffer("queue", torch.zeros(num_assigning, length, settings.embedding_dim))
        self.register_buffer("queue_filled", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def normalise_prototypes(self) -> None:
        """Makes every prototype a unit vector; to be called before each step. Unit vectors keep their bits."""
        weight = self.prototypes.weight
        # Dividing by a norm of 1 - 1e-7 would change the last bit of frozen prototypes at every step.
        off = (weight.norm(dim=1, keepdim=True) - 1).abs() > 1e-6
        weight.copy_(torch.where(off, F.normalize(weight, dim=1), weight))

    def embed(self, vectors: Tensor) -> Tensor:
        """(B, in_dim) pooled vectors -> (B, D) unit embeddings."""
        return F.normalize(self.projector(vectors).float(), dim=1)

    def score(self, embeddings: Tensor) -> Tensor:
        """(B, D) unit embeddings -> (B, K) cosine similarities, in float32: half precision is too coarse for epsilon 0.05."""
        with torch.autocast(embeddings.device.type, enabled=False):
            return F.linear(embeddings.float(), self.prototypes.weight.float())

    @torch.no_grad()
    def codes(self, embeddings: Sequence[Tensor], scores: Sequence[Tensor], progress: Progress) -> list[Tensor]:
        """Codes of the assigning views; then their embeddings enter the queue (while training, from its start epoch on).

        Args:
            embeddings: One (B, D) tensor an assigning view.
            scores: Their (B, K) scores.
            progress: Decides whether the queue is in use.

        Returns:
            One (B, K) float32 tensor a view.
        """
        queue_active = self.queue.shape[1] > 0 and progress.epoch >= self.settings.queue_start_epoch
        queue_full = queue_active and int(self.queue_filled) >= self.queue.shape[1]
        result = []
        for view, score in enumerate(scores):
            batch = score.shape[0]
            if queue_full:
                # Every process balances its own share of the queue; together they cover it once.
                past = self.score(self.queue[view, processes.rank() :: processes.world_size()])
                score = torch.cat([past, score.float()])
            code = sinkhorn(score, epsilon=self.settings.epsilon, num_iterations=self.settings.sinkhorn_iterations)
            result.append(code[-batch:])
        if queue_active and self.training:
            self._push([embedding.detach() for embedding in embeddings])
        return result

    def _push(self, embeddings: list[Tensor]) -> None:
        """Puts the global batch in front of the queue; the oldest rows fall out."""
        self.queue = torch.stack([pushed(*pair) for pair in zip(self.queue, embeddings, strict=True)])
        self.queue_filled.add_(len(embeddings[0]) * processes.world_size()).clamp_(max=self.queue.shape[1])

    def loss(
        self, vectors: Sequence[Tensor], progress: Progress, *, num_images: int
    ) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        """SwAV's loss L_e, the codes that produced it, and its scalars (loss and signs of collapse).

        Args:
            vectors: Pooled features (count * B, L), views one after another, a tensor for each batch that the projector's norms see
                together; the first of all views assign the codes.
            progress: Where training stands.
            num_images: B.
        """
        if self.training:
            self.normalise_prototypes()
        embeddings: list[Tensor] = []
        for vector in vectors:
            embeddings.extend(torch.split(self.embed(vector), num_images))
        if self.training and progress.step < self.settings.draw_prototypes_steps:
            self._draw_prototypes(embeddings[0], progress)
        scores = [self.score(embedding) for embedding in embeddings]
        num_assigning = self.queue.shape[0]
        codes = self.codes(embeddings[:num_assigning], scores[:num_assigning], progress)
        loss = swapped_prediction(scores, codes, temperature=self.settings.temperature)
        scalars = {"swav": loss.detach()}
        if progress.log:
            scalars.update(self.health(embeddings[0], scores[0], codes[0]))
        return loss, codes, scalars

    @torch.no_grad()
    def _draw_prototypes(self, embeddings: Tensor, progress: Progress) -> None:
        """Overwrites the oldest prototypes by the embeddings of the global batch; of accumulated micro-batches the last one's remain.

        An image whose own embedding is a prototype has a code that names it, which its other view must find: instance discrimination, which
        learns from the first step. From these prototypes learned ones continue.
        """
        rows = processes.gather(embeddings.detach().float())
        count, total = len(rows), self.settings.num_prototypes
        rows = rows[:total]
        places = (torch.arange(len(rows), device=rows.device) + progress.step * count) % total
        self.prototypes.weight[places] = rows.to(self.prototypes.weight.dtype)

    def drop_frozen_gradient(self, progress: Progress) -> None:
        """Removes the prototypes' gradient during the first steps, while they are frozen or drawn."""
        if progress.step < max(self.settings.freeze_prototypes_steps, self.settings.draw_prototypes_steps):
            self.prototypes.weight.grad = None

    @torch.no_grad()
    def health(self, embeddings: Tensor, scores: Tensor, codes: Tensor) -> dict[str, Tensor]:
        """Signs of collapse over a batch: `code_entropy` and `prediction_entropy` in [0, 1] (of the mean over images),
        `used_prototypes` (share of prototypes that are some image's first choice) and `feature_rank` (of the embeddings)."""
        used = torch.zeros(scores.shape[1], device=scores.device)
        used[scores.argmax(dim=1)] = 1
        # At most min(B, K) prototypes can be chosen by B images.
        return {
            "code_entropy": normalised_entropy(codes),
            "prediction_entropy": normalised_entropy(F.softmax(scores / self.settings.temperature, dim=1)),
            "used_prototypes": used.sum() / min(scores.shape),
            "feature_rank": effective_rank(embeddings),
        }
