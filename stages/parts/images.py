"""The images of a run: where they lie, which splits there are, and their manifests."""

import difflib
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from luss.data.imagenet_s import Layout, category_ids, find_layout
from luss.data.manifest import Manifest, build_manifest
from luss.data.skipped import SkippedFiles, escape_path
from luss.data.walk import Changes, changes
from luss.errors import LussError
from luss.files import read_record
from luss.settings import DataSettings
from stages.base import StageContext, StagePlace

EMBEDDED = "shapes"
# The folder of the stage that lists the images.
_MANIFEST = "manifest"
_REMEDY = "put a sound copy in its place, or make the stage anew (--force manifest)"
# Folder of the listings of evaluated splits, in the manifest's own: it is moved aside with it when the data changes.
EVALUATED = "evaluated"
_LOOK_SECONDS = 2.0


def data_layout(data: DataSettings) -> Layout:
    """The layout of the run's data.

    Raises:
        LussError: The folder does not exist.
    """
    root = Path(data.shapes.folder if data.root == EMBEDDED else data.root)
    if not root.is_dir():
        raise LussError(
            f"data.root is {data.root!r}, which is not a folder: give the folder of your images, or the word {EMBEDDED}"
        )
    return find_layout(root)


def num_classes(num_clusters: int, layout: Layout) -> int:
    """The largest id in masks and predictions: there may be more categories than clusters, or fewer."""
    return max(num_clusters, categories_of(layout) or 0)


def categories_of(layout: Layout) -> int | None:
    """Categories of the data, counted as folders of its training images; None where these are not sorted."""
    return len(category_ids(layout.images["train"])) or None if "train" in layout.images else None


def list_images(
    place: StagePlace,
    image_folder: Path,
    folder: Path,
    split: str,
    skipped: SkippedFiles,
    message: Callable[[str], None],
) -> Manifest:
    """The manifest `split` in `folder` of the images in `image_folder`, built where it is missing; `message` is told before.

    Raises:
        LussError: Too many images cannot be used.
        Interrupted: A stop was asked for.
    """
    data = place.run.data
    if not (folder / f"{split}.json").is_file():
        message(f"listing the images of {escape_path(str(image_folder))}")
        summary = build_manifest(
            image_folder,
            folder,
            split,
            max_pixels=data.max_pixels,
            workers=data.workers,
            verify=data.verify,
            stop=place.stop,
            skipped=skipped,
        )
        for sentence in summary.sentences:
            message(f"warning: {sentence}")
        total = summary.num_images + summary.num_skipped
        if summary.num_skipped > data.max_skipped_share * total:
            # What was listed is forgotten: the files will be mended, or the limit raised.
            (folder / f"{split}.json").unlink()
            # The list holds files of other splits too.
            skipped.check(total, data.max_skipped_share, count=summary.num_skipped)
    return Manifest.open(folder, split)


def listed_split(place: StagePlace, split: str, *, message: Callable[[str], None] = lambda text: None) -> Manifest:
    """The manifest of a split that is evaluated; the manifest stage is done.

    That one lists those of `data.evaluate`; one that was added since is listed at the first call, while other processes wait; `message` is
    told before.

    Raises:
        LussError: There is no such split, or too many of its images cannot be used.
        Interrupted: A stop was asked for.
    """
    folder = place.run_folder / _MANIFEST / EVALUATED
    if not (folder / f"{split}.json").is_file():
        with place.listing():
            skipped = SkippedFiles(place.run_folder / _MANIFEST / "skipped.csv")
            image_folder = data_layout(place.run.data).image_folder(split)
            return list_images(place, image_folder, folder, split, skipped, message)
    return Manifest.open(folder, split)


def evaluated_splits(data: DataSettings) -> list[str]:
    """The splits of `data.evaluate` that the data has; none in a plain folder of images."""
    layout = data_layout(data)
    return [split for split in data.evaluate if split in layout.images and layout.images[split] != layout.root]


def evaluated_manifests(place: StagePlace) -> dict[str, Manifest]:
    """The manifests of the images that are segmented: those of all evaluated splits; where there are none, the training images.

    Raises:
        LussError: As for `listed_split`.
        Interrupted: As for `listed_split`.
    """
    found = {split: listed_split(place, split) for split in evaluated_splits(place.run.data)}
    return found or {"train": train_manifest(place.run_folder)}


def is_listed(run_folder: Path, root: Path, extra: str) -> bool:
    """Whether the manifest stage has listed the folder `extra` of `data.extra` below `root`."""
    facts = run_folder / _MANIFEST / "manifest" / f"{list_name(extra)}.json"
    if not facts.is_file():
        return False
    return bool(read_record(facts).get("image_root") == escape_path(str((root / extra).absolute())))


def num_listed(run_folder: Path, *extra: str) -> int:
    """Training images, those of the folders `extra` of `data.extra` included; the manifest stage is done."""
    facts = [run_folder / _MANIFEST / "manifest" / f"{name}.json" for name in ("train", *map(list_name, extra))]
    return sum(read_record(path, {"num_images": int}, remedy=_REMEDY)["num_images"] for path in facts)


def listed_folders(data: DataSettings, layout: Layout) -> dict[str, Path]:
    """The folders of training images by the name of their listing: "train", and those of `data.extra`.

    Raises:
        LussError: One that the settings name is no folder.
    """
    train = layout.root / data.train
    if not train.is_dir():
        if data.train != DataSettings.train:
            raise LussError(
                f"data.train names {data.train!r}, but {train} is not a folder{nearest_split(data.train, layout)}"
            )
        train = layout.image_folder("train")
    found = {"train": train}
    for extra in data.extra:
        if not (layout.root / extra).is_dir():
            raise LussError(f"data.extra names {extra!r}, but {layout.root / extra} is not a folder")
        found[list_name(extra)] = layout.root / extra
    return found


def changed_since_listed(run_folder: Path) -> str:
    """What to say where images have come to the folders of a run or have gone since they were listed; empty where nothing shows it.

    Looks at folders, not at files, and some seconds at most, however many there are.
    """
    found, roots, until = Changes(), [], time.monotonic() + _LOOK_SECONDS
    for notes in sorted((run_folder / _MANIFEST).glob("*/*.folders")):
        try:
            root = Manifest.open(notes.parent, notes.stem).image_root
            if not root.is_dir():
                continue
            with open(notes, encoding="utf-8") as lines:
                each = changes(root, lines, seconds=until - time.monotonic())
        except (LussError, OSError, ValueError):
            # Whoever reads the manifest says what is wrong with it.
            continue
        if each != Changes():
            found = Changes(found.added + each.added, found.removed + each.removed)
            roots.append(escape_path(str(root)))
    if not roots:
        return ""
    return (
        f"the images in {', '.join(roots)} are not those that were listed (at least {found.added} more, {found.removed} fewer): "
        "luss run with --rescan lists them anew, and what was made from others becomes stale"
    )


def nearest_split(name: str, layout: Layout) -> str:
    """A question for whoever mistyped the name of a split; empty where none is near."""
    near = difflib.get_close_matches(name, layout.images, n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def list_name(folder: str) -> str:
    """The name of the listing of a folder of `data.extra`: its own where it lies in the data's root, else one that leads nowhere."""
    if Path(folder).name == folder:
        return folder
    return f"{Path(folder).name}-{hashlib.blake2b(folder.encode(), digest_size=4).hexdigest()}"


def num_files(folder: Path, split: str) -> int:
    """Image files that were found when a manifest was built, those that could not be read included."""
    facts = read_record(folder / f"{split}.json", {"num_images": int, "num_skipped": int}, remedy=_REMEDY)
    return int(facts["num_images"] + facts["num_skipped"])


def train_manifest(run_folder: Path) -> Manifest:
    """The manifest of the images that are clustered and labelled.

    Raises:
        LussError: The manifest stage is not done.
    """
    return Manifest.open(run_folder / _MANIFEST / "manifest", "train")


def pretrain_manifests(context: StageContext) -> list[Manifest]:
    """The manifests of all images that the representation is learned from."""
    folder = context.run_folder / _MANIFEST / "manifest"
    return [Manifest.open(folder, name) for name in ["train", *map(list_name, context.run.data.extra)]]
