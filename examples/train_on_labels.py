"""Trains another network on pseudo labels with plain torch and timm: a loop to copy and change.

    luss export outputs/demo --format torch --out labels
    python examples/train_on_labels.py labels --model resnet18 --epochs 10 --out student.safetensors

Nothing of luss is needed once the labels are exported: `labels/dataset.py` is a Dataset in one file.
"""

import argparse
import contextlib
import importlib
import random
import sys
from pathlib import Path
from typing import Any

with contextlib.suppress(ImportError):
    import luss.compat  # noqa: F401  (where torch has no CUDA, timm's import of torchvision may need it)

import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision.transforms import functional as pixels


class FullyConvolutional(nn.Module):
    """A timm backbone with a small head on its last feature map (Long et al. 2015)."""

    def __init__(self, name: str, num_classes: int, *, pretrained: bool) -> None:
        """`num_classes` counts the background."""
        super().__init__()
        self.backbone = timm.create_model(name, features_only=True, out_indices=(-1,), pretrained=pretrained)
        channels = self.backbone.feature_info.channels()[-1]
        self.head = nn.Sequential(
            nn.Conv2d(channels, 256, 3, padding=1, bias=False),
            nn.BatchNorm2d(256),
            nn.ReLU(),
            nn.Conv2d(256, num_classes, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, classes, H, W) logits."""
        logits = self.head(self.backbone(images)[-1])
        return F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)


class Crops:
    """Turns an image and its labels into a square tensor pair: a random crop for training, the middle for validation."""

    def __init__(self, size: int, mean: list[float], std: list[float], *, random_crop: bool) -> None:
        self.size, self.mean, self.std, self.random_crop = size, mean, std, random_crop

    def __call__(self, image: Image.Image, label: Tensor, name: str) -> tuple[Tensor, Tensor]:
        scale = random.uniform(1.0, 2.0) if self.random_crop else 1.0
        # The short side becomes `scale` times the crop; labels are never blended, so they are resized to the nearest.
        short = max(self.size, round(self.size * scale))
        ratio = short / min(image.size)
        width, height = (max(self.size, round(side * ratio)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        label = F.interpolate(label[None, None].float(), (height, width), mode="nearest-exact")[0, 0].long()
        left, top = (width - self.size) // 2, (height - self.size) // 2
        if self.random_crop:
            left, top = random.randint(0, width - self.size), random.randint(0, height - self.size)
        image = image.crop((left, top, left + self.size, top + self.size))
        label = label[top : top + self.size, left : left + self.size]
        if self.random_crop and random.random() < 0.5:
            image, label = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), label.flip(1)
        return pixels.normalize(pixels.to_tensor(image), self.mean, self.std), label


def load_dataset_class(folder: Path) -> Any:
    """`PseudoLabelDataset` from the exported folder's own file."""
    sys.path.insert(0, str(folder))
    return importlib.import_module("dataset").PseudoLabelDataset


def agreement(network: nn.Module, loader: DataLoader[Any], device: torch.device) -> float:
    """Share of pixels on which the network says what the pseudo labels say. It is not an accuracy: nobody checked those."""
    network.eval()
    same = total = 0
    with torch.no_grad():
        for images, labels in loader:
            found = network(images.to(device)).argmax(dim=1).cpu()
            same += int((found == labels).sum())
            total += labels.numel()
    network.train()
    return same / max(1, total)


def main(arguments: list[str] | None = None) -> float:
    """Trains, prints a line an epoch, writes the weights, and returns the last agreement on held-out images."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("labels", type=Path, help="folder written by `luss export RUN --format torch`")
    parser.add_argument("--images", type=Path, help="folder of the images, where they have moved")
    parser.add_argument("--model", default="resnet18", help="any timm name that gives feature maps")
    parser.add_argument("--pretrained", action="store_true", help="begin with timm's weights")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--size", type=int, default=224, help="side of the crops, pixels")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--max-steps", type=int, default=0, help="steps an epoch at most; 0 = all")
    parser.add_argument("--out", type=Path, default=Path("student.safetensors"))
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    random.seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset_class = load_dataset_class(options.labels)
    facts = timm.get_pretrained_cfg(options.model)
    mean, std = (list(values) for values in (facts.mean, facts.std))
    sets = [
        dataset_class(options.labels, options.images, Crops(options.size, mean, std, random_crop=training))
        for training in (True, False)
    ]
    order = torch.randperm(len(sets[0])).tolist()
    held_out = max(1, len(order) // 20)
    train = DataLoader(
        Subset(sets[0], order[held_out:]),
        options.batch_size,
        shuffle=True,
        drop_last=len(order) - held_out >= options.batch_size,
        num_workers=options.workers,
    )
    validation = DataLoader(Subset(sets[1], order[:held_out]), options.batch_size, num_workers=options.workers)

    network = FullyConvolutional(options.model, sets[0].num_clusters + 1, pretrained=options.pretrained).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.lr, weight_decay=0.01)
    steps = min(len(train), options.max_steps or len(train))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs * steps)
    share = 0.0
    for epoch in range(options.epochs):
        total = 0.0
        for step, (images, labels) in enumerate(train):
            if step == steps:
                break
            loss = F.cross_entropy(network(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        share = agreement(network, validation, device)
        print(
            f"epoch {epoch + 1} of {options.epochs}: loss {total / steps:.3f}, agreement on held-out images {share:.3f}"
        )
    weights = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, options.out, metadata={"model": options.model, "num_classes": str(sets[0].num_clusters + 1)})
    return share


if __name__ == "__main__":
    main()
