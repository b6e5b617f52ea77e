"""Which stages work with which family of networks: prints the table of docs/backbones.md.

Run `python benchmarks/backbones.py --onnx` from the repository (some minutes); without `--onnx` that column is left out.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F

from luss.errors import LussError
from luss.export.onnx import export_onnx
from luss.models.attended import AttendedBackbone
from luss.models.backbone import Backbone
from luss.models.build import build_backbone
from luss.models.pixel_attention import PixelAttention
from luss.models.segmenter import SegmentationNetwork
from luss.predict import segment_batch
from luss.settings import PredictSettings
from luss.training.precision import Precision

# About the sides of the images that are tried: Inception takes none below 75 pixels.
SIDES = (96, 128)
# A small member of each family.
FAMILIES = {
    "VGG": "vgg11",
    "ResNet": "test_resnet",
    "ResNet v2": "resnetv2_18",
    "Res2Net": "res2net50_14w_8s",
    "RegNet": "regnetx_002",
    "DenseNet": "densenet121",
    "DLA": "dla46_c",
    "VoVNet": "ese_vovnet19b_dw",
    "CSPNet": "cs3darknet_focus_s",
    "Inception": "inception_v3",
    "Xception": "xception41",
    "HRNet": "hrnet_w18_small",
    "EfficientNet": "test_efficientnet",
    "MobileNet v3": "mobilenetv3_small_050",
    "GhostNet": "ghostnet_050",
    "HGNet": "hgnetv2_b0",
    "StarNet": "starnet_s050",
    "ConvNeXt": "test_convnext",
    "NFNet": "test_nfnet",
    "MetaFormer (PoolFormer)": "poolformer_s12",
    "FastViT": "fastvit_t8",
    "NextViT": "nextvit_small",
    "EdgeNeXt": "edgenext_xx_small",
    "EfficientViT (MIT)": "efficientvit_b0",
    "EfficientViT (MSRA)": "efficientvit_m0",
    "PVT v2": "pvt_v2_b0",
    "Swin": "swin_tiny_patch4_window7_224",
    "CoAtNet": "test_coatnet",
    "MaxViT": "test_maxvit",
    "LeViT": "levit_128s",
    "PiT": "pit_ti_224",
    "CoaT": "coat_lite_tiny",
    "ViT, DeiT": "test_vit",
    "DINOv2": "vit_small_patch14_dinov2",
    "DINOv3": "vit_tiny_patch16_dinov3_qkvb",
    "EVA-02": "eva02_tiny_patch14_224",
}
COLUMNS = (
    "family",
    "tried",
    "strides of the maps",
    "class token",
    "sides of images",
    "labels",
    "fine-tuning",
    "predict",
)


def row(family: str, name: str) -> list[str]:
    """What one network can do, found by doing it with random weights."""
    backbone = build_backbone(name)
    if backbone.fixed_size:
        sides, size = "{} x {} only".format(*backbone.fixed_size), backbone.fixed_size
    else:
        step = backbone.multiple
        sides, size = f"multiples of {step}" if step > 1 else "any", (SIDES[0] // step * step, SIDES[1] // step * step)
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    with torch.no_grad():
        features = backbone.eval()(backbone.normalise(images))
    any_size = backbone.fixed_size is None
    return [
        family,
        f"`{name}`",
        ", ".join(str(stride) for stride in backbone.strides),
        "no" if features.token is None else "yes",
        sides,
        _said(any_size and _labels(backbone, images)),
        _said(_learns(backbone, images)),
        _said(any_size and _predicts(backbone, images)),
    ]


def _said(works: bool) -> str:
    return "yes" if works else "no"


def _labels(backbone: Backbone, images: torch.Tensor) -> bool:
    network = AttendedBackbone(backbone, PixelAttention(backbone.num_channels), target_stride=8).eval()
    centroids = F.normalize(torch.randn(5, backbone.num_channels), dim=1)
    labels, strength = network.label(backbone.normalise(images), centroids, saliency=0.5)
    return labels.shape == strength.shape and bool(torch.isfinite(strength).all())


def _learns(backbone: Backbone, images: torch.Tensor) -> bool:
    network = SegmentationNetwork(backbone, 5).train()
    logits = F.interpolate(network(backbone.normalise(images)), size=(32, 32), mode="bilinear")
    F.cross_entropy(logits, torch.zeros(2, 32, 32, dtype=torch.int64)).backward()
    return all(value.grad is not None and value.grad.isfinite().all() for value in network.head.parameters())


def _predicts(backbone: Backbone, images: torch.Tensor) -> bool:
    network = SegmentationNetwork(backbone, 5).eval()
    precision = Precision("fp32", torch.device("cpu"))
    found = list(segment_batch(network, images, [(71, 103), (60, 90)], PredictSettings(), precision))
    return [labels.shape for labels, _ in found] == [(71, 103), (60, 90)]


def onnx(name: str) -> str:
    """Whether the segmenter can be written as one graph: at any size, or at one."""
    network = SegmentationNetwork(build_backbone(name), 5).eval()
    try:
        with tempfile.TemporaryDirectory() as folder:
            settings, path = PredictSettings(short_side=SIDES[0]), Path(folder) / "model.onnx"
            return "any size" if export_onnx(network, settings, path).dynamic else "one size"
    except LussError:
        return "no"


def lines(*, with_onnx: bool) -> Iterator[str]:
    """The table, as Markdown."""
    head = (*COLUMNS, "ONNX") if with_onnx else COLUMNS
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for family, name in FAMILIES.items():
        yield f"| {' | '.join([*row(family, name), *([onnx(name)] if with_onnx else [])])} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--onnx", action="store_true")
    for line in lines(with_onnx=parser.parse_args().onnx):
        print(line, flush=True)
    sys.exit(0)
