"""The split train-semi, the only one whose masks a method may learn from, as the protocols with labels use it."""

from pathlib import Path

from luss import processes
from luss.data.formats import is_image
from luss.data.imagenet_s import IGNORE, MASK_FOLDER_SUFFIX, Layout, category_ids, mask_path
from luss.data.manifest import Manifest
from luss.data.walk import find_images
from luss.errors import LussError
from luss.labels.source import LabelSource, MaskLabels
from luss.settings import RunSettings
from stages.base import StageContext
from stages.parts.images import EMBEDDED, data_layout, list_images

SPLIT = "train-semi"


def num_categories(layout: Layout) -> int:
    """C of a data set: the folders of its training images, or of train-semi where those are not sorted.

    Raises:
        LussError: Neither has a folder a category, or there are more categories than a mask can name.
    """
    counts = [len(category_ids(layout.images[split])) for split in ("train", SPLIT) if split in layout.images]
    found = next((count for count in counts if count), 0)
    if not 0 < found < IGNORE:
        raise LussError(
            f"{layout.root} has {found} categories, counted as folders of its training images: these protocols need "
            f"1 to {IGNORE - 1}, one folder a category"
        )
    return found


def _is_read(name: str) -> bool:
    return is_image(name.rpartition("/")[2])


def check_train_semi(run: RunSettings) -> None:
    """Makes sure that train-semi is there, with a mask for every image and images for a batch; the embedded data set always has it.

    Raises:
        LussError: Naming what is missing.
    """
    if run.data.root == EMBEDDED:
        return
    layout = data_layout(run.data)
    images, masks = layout.root / SPLIT, layout.root / f"{SPLIT}{MASK_FOLDER_SUFFIX}"
    for folder, content in ((images, "images"), (masks, "masks")):
        if not folder.is_dir():
            raise LussError(
                f"the protocols distance_matching and semi_supervised learn from the masks of {SPLIT}, but there is no folder "
                f"{folder} of {content}: add it, or leave these protocols out of `protocols`"
            )
    num_categories(layout)
    num_images, num_lacking, first = 0, 0, ""
    for name in filter(_is_read, find_images(images)):
        num_images += 1
        if not mask_path(layout, SPLIT, name).is_file():
            first, num_lacking = first or name, num_lacking + 1
    if not num_images:
        raise LussError(f"{images} holds no images: these protocols learn from them")
    block = run.semi_finetune
    if "semi_supervised" in run.protocols and block.epochs and block.batch_size > num_images:
        raise LussError(
            f"semi_finetune.batch_size is {block.batch_size}, but {images} holds {num_images} images: lower it"
        )
    if num_lacking:
        raise LussError(
            f"{num_lacking} of the {num_images} images of {images} have no mask in {masks}, the first is {first}: add the masks, "
            "or take the images away"
        )


def semi_labels(context: StageContext) -> MaskLabels:
    """The images of train-semi with their masks; lists them in the stage's own folder.

    Raises:
        LussError: The split or masks are missing.
    """
    check_train_semi(context.run)
    layout = data_layout(context.run.data)
    if processes.rank() == 0:
        _listed(context, layout)
    processes.barrier()
    # Listed by now: every process opens the same files.
    return MaskLabels(_listed(context, layout), layout, SPLIT, num_classes=num_categories(layout))


def _listed(context: StageContext, layout: Layout) -> Manifest:
    folder, message = context.folder / "manifest", context.reporter.message
    return list_images(context, layout.image_folder(SPLIT), folder, SPLIT, context.skipped, message)


class TrainSemi:
    """The masks of train-semi as what a segmenter learns from: ids are categories; pixels of id 1000 are left out of the loss."""

    ignored_id: int | None = IGNORE

    def labels(self, context: StageContext) -> tuple[Path, LabelSource, int]:
        """See `stages.finetune.Labels`."""
        masks = semi_labels(context)
        return masks.manifest.image_root, masks, masks.num_classes

    def edits(self, run_folder: Path) -> tuple[str, str]:
        """None: masks are not edited."""
        return "", ""
