"""The shipped configurations of ImageNet-S hold the recipe that was published, number by number.

The numbers were read from the released scripts (a table a set: pretraining, pixel attention, clustering, fine-tuning, inference), not from the
configurations. What luss does otherwise on purpose stands at the end.
"""

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from luss.config import load_config
from luss.settings import RunSettings

CONFIGS = Path(__file__).parents[1] / "configs"
SETS = ("imagenet_s50", "imagenet_s300", "imagenet_s919")
GPUS, IMAGES_A_GPU = 8, 32
TRAINED = ("pretrain", "pixel_attention", "finetune")

# Setting: its published value for each of the three sets.
BY_SET: dict[str, tuple[Any, Any, Any]] = {
    "pretrain.backbone.name": ("resnet18", "resnet50", "resnet50"),
    "pretrain.method.clustering.hidden_dim": (512, 2048, 2048),
    "pretrain.method.clustering.num_prototypes": (500, 3000, 3000),
    "pretrain.method.clustering.queue_length": (2048, 3840, 3840),
    "pretrain.method.clustering.freeze_prototypes_steps": (1001, 5005, 5005),
    "pretrain.epochs": (200, 100, 100),
    "pretrain.method.global_views.scale": ((0.14, 1.0), (0.08, 1.0), (0.08, 1.0)),
    "pretrain.method.local_views.count": (6, 0, 0),
    "pixel_attention.lr": (6.0, 0.6, 0.6),
    "cluster.num_clusters": (50, 300, 919),
    # The largest model was pretrained on all of ImageNet-1k: with the classes that ImageNet-S-919 has no category for.
    "data.extra": ([], [], ["train-extra"]),
}
# Setting: its published value for every set.
COMMON: dict[str, Any] = {
    "seed": 10010,
    "pretrain.method.name": "pass_s",
    "pretrain.backbone.output_stride": 32,
    "pretrain.backbone.weights": "random",
    "pretrain.backbone.zero_init_residual": False,
    "pretrain.method.global_views.count": 2,
    "pretrain.method.global_views.size": 224,
    "pretrain.method.clustering.embedding_dim": 128,
    "pretrain.method.clustering.temperature": 0.1,
    "pretrain.method.clustering.epsilon": 0.05,
    "pretrain.method.clustering.sinkhorn_iterations": 3,
    "pretrain.method.clustering.queue_start_epoch": 15,
    "pretrain.method.clustering.draw_prototypes_steps": 0,
    "pretrain.method.shallow_stages": [3],
    "pretrain.method.deep_weight": 1.0,
    "pretrain.method.shallow_weights": [1.0],
    "pretrain.method.pixel_alignment_weight": 1.0,
    "pretrain.method.grid_size": 7,
    "pretrain.method.projector_batch": "all_sizes",
    "pretrain.method.convolution_start": "kaiming",
    "pretrain.lr": 0.6,
    "pixel_attention.epochs": 20,
    "pixel_attention.views.count": 2,
    "pixel_attention.views.size": 224,
    "pixel_attention.views.scale": (0.08, 1.0),
    "pixel_attention.queue_length": 3840,
    "pixel_attention.queue_start_epoch": 0,
    "pixel_attention.target_stride": 8,
    "pixel_attention.shared": False,
    "pixel_attention.saliency.weight": 0.0,
    "pixel_attention.convolution_start": "kaiming",
    "pixel_attention.attention_batch": "all_views",
    "extract_features.resize": 256,
    "extract_features.crop": 224,
    "extract_features.layout_stages": [],
    "cluster.num_iterations": 20,
    "cluster.num_restarts": 30,
    "cluster.layout_dim": 0,
    "pseudo_labels.short_side": 256,
    "pseudo_labels.image_weight": 0.0,
    "pseudo_labels.saliency": 0.0,
    "finetune.epochs": 20,
    "finetune.lr": 0.6,
    "finetune.size": 224,
    "finetune.scale": (0.08, 1.0),
    "finetune.label_stride": 2,
    "finetune.output_stride": 0,
    "finetune.convolution_start": "kaiming",
    "semi_finetune.convolution_start": "kaiming",
    "finetune.colours.jitter_probability": 0.0,
    "finetune.colours.grey_probability": 0.0,
    "finetune.colours.blur_probability": 0.0,
    "predict.short_side": 256,
    "predict.image_weight": 0.0,
    "predict.total_foreground": False,
}
# What every trained stage shares: LARS over SGD, cosine to 0.0006 without warm-up, 8 GPUs x 32 images, synchronised batch norm.
EVERY_TRAINING: dict[str, Any] = {
    "optimizer.name": "lars",
    "batch_size": GPUS * IMAGES_A_GPU,
    "lr_batch_size": GPUS * IMAGES_A_GPU,
    "accumulate": 1,
    "final_lr": 0.0006,
    "warmup_epochs": 0.0,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 1e-6,
    "optimizer.decay_norms_and_biases": True,
    "optimizer.clip": "none",
    "sync_batch_norm": True,
}
# The recipe of pretraining and attention: SwAV's colours.
COLOURS = {
    "brightness": 0.8,
    "contrast": 0.8,
    "saturation": 0.8,
    "hue": 0.2,
    "jitter_probability": 0.8,
    "grey_probability": 0.2,
    "blur_probability": 0.5,
    "blur_sigma": (0.1, 2.0),
}


@cache
def settings(name: str) -> RunSettings:
    return load_config(CONFIGS / f"{name}.yaml")


def value(run: RunSettings, key: str) -> Any:
    found: Any = run
    for part in key.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("key", BY_SET)
def test_a_setting_that_differs_among_the_sets_has_the_published_value_of_each(key: str) -> None:
    assert tuple(value(settings(name), key) for name in SETS) == BY_SET[key]


@pytest.mark.parametrize("name", SETS)
def test_what_the_sets_share_has_its_published_value(name: str) -> None:
    found = {key: value(settings(name), key) for key in COMMON}
    assert found == COMMON


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("stage", TRAINED)
def test_every_training_has_the_published_optimiser_batch_and_schedule(name: str, stage: str) -> None:
    assert {key: value(settings(name), f"{stage}.{key}") for key in EVERY_TRAINING} == EVERY_TRAINING


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("stage", ["pretrain", "pixel_attention"])
def test_views_are_recoloured_as_published(name: str, stage: str) -> None:
    group = {"pretrain": "pretrain.method.global_views", "pixel_attention": "pixel_attention.views"}[stage]
    assert {key: value(settings(name), f"{group}.colours.{key}") for key in COLOURS} == COLOURS


def test_the_small_published_recipe_has_what_is_published_by_default_too() -> None:
    run = load_config(CONFIGS / "objects27_cpu_published.yaml")
    assert value(run, "pretrain.method.projector_batch") == "all_sizes"
    assert value(run, "pixel_attention.attention_batch") == "all_views"


def test_the_smallest_set_has_the_published_local_crops() -> None:
    views = value(settings("imagenet_s50"), "pretrain.method.local_views")
    assert (views.count, views.size, views.scale) == (6, 96, (0.05, 0.14))


@pytest.mark.parametrize(
    ("name", "num_images", "steps"),
    [("imagenet_s50", 64_431, 50_200), ("imagenet_s300", 384_862, 150_300), ("imagenet_s919", 1_281_167, 500_400)],
)
def test_epochs_and_batch_make_the_published_number_of_steps(name: str, num_images: int, steps: int) -> None:
    pretrain = settings(name).pretrain
    assert pretrain.epochs * (num_images // pretrain.batch_size) == steps


@pytest.mark.parametrize("name", SETS)
def test_no_quirk_of_the_released_code_is_switched_on_and_no_threshold_comes_from_masks(name: str) -> None:
    run = settings(name)
    # The paper trains the attention alone and takes a predefined threshold; the released code trains the prototypes too, and searches it.
    assert not run.pixel_attention.train_prototypes
    quirks = ("method.points", "method.padding", "method.pairs")
    assert [value(run.pretrain, key) for key in quirks] == ["centres", "border", "overlapping"]
    assert (run.pixel_attention.batch_norm, run.extract_features.pool) == ("frozen", "unit")
    assert run.pseudo_labels.threshold == "auto"


# The other learners on ImageNet-S-50: public recipes at a batch of 256, 200 epochs as the paper trains all of them.
LEARNERS_S50: dict[str, dict[str, Any]] = {
    "simclr": {
        "optimizer.name": "lars",
        "optimizer.weight_decay": 1e-6,
        "optimizer.decay_norms_and_biases": False,
        "lr": 0.3,
        "warmup_epochs": 10,
        "method.temperature": 0.1,
        "method.embedding_dim": 128,
        "method.global_views.scale": (0.08, 1.0),
        "method.global_views.colours.brightness": 0.8,
    },
    "moco_v2": {
        "optimizer.name": "sgd",
        "optimizer.nesterov": False,
        "optimizer.weight_decay": 1e-4,
        "optimizer.decay_norms_and_biases": True,
        "lr": 0.03,
        "warmup_epochs": 0,
        "method.temperature": 0.2,
        "method.momentum": 0.999,
        "method.global_views.scale": (0.2, 1.0),
        "method.global_views.colours.hue": 0.1,
        "backbone.zero_init_residual": False,
    },
    "densecl": {"optimizer.name": "sgd", "lr": 0.03, "method.dense_weight": 0.5, "method.hidden_dim": 2048},
    "byol": {
        "optimizer.name": "lars",
        "optimizer.weight_decay": 1.5e-6,
        "optimizer.decay_norms_and_biases": False,
        "lr": 0.2,
        "warmup_epochs": 2,
        "method.momentum": 0.996,
        "method.hidden_dim": 4096,
        "method.embedding_dim": 256,
        "method.first_view.colours.blur_probability": 1.0,
        "method.second_view.colours.blur_probability": 0.1,
        "method.second_view.colours.solarise_probability": 0.2,
        "backbone.zero_init_residual": True,
    },
    "simsiam": {
        "optimizer.name": "sgd",
        "optimizer.weight_decay": 1e-4,
        "lr": 0.05,
        "method.constant_predictor_lr": True,
        "method.embedding_dim": 2048,
        "method.predictor_dim": 512,
    },
    "pixpro": {
        "optimizer.name": "lars",
        "optimizer.weight_decay": 1e-5,
        "optimizer.decay_norms_and_biases": False,
        "lr": 1.0,
        "final_lr": 1e-6,
        "warmup_epochs": 5,
        "method.near": 0.7,
        "method.sharpness": 2.0,
        "method.value_layers": 1,
        "method.momentum": 0.99,
        "method.image_weight": 0.0,
    },
    "pass_p": {"lr": 1.0, "warmup_epochs": 5, "method.shallow_stages": [3, 2], "method.convolution_start": "kaiming"},
}


@pytest.mark.parametrize("name", LEARNERS_S50)
def test_the_configurations_of_other_learners_hold_their_public_recipes(name: str) -> None:
    run = load_config(CONFIGS / "imagenet_s50.yaml", [str(CONFIGS / "imagenet_s50" / f"{name}.yaml")])
    assert (run.pretrain.epochs, run.pretrain.batch_size, run.pretrain.lr_batch_size) == (200, 256, 256)
    for key, expected in LEARNERS_S50[name].items():
        found: Any = run.pretrain
        for part in key.split("."):
            found = getattr(found, part)
        assert found == expected, key
