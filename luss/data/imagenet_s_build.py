"""Builds ImageNet-S-50, -300 and -919 from a folder of ImageNet and the published annotations.

Which images there are follows from the annotations: the categories are their folders; the images of `train-semi` and `validation` are
those that have a mask; `train` is all of ImageNet's training images of the categories, `train-extra` (of 919 alone) all of its others. `test`
has no public masks: its images are known only from the toolkit's lists.
Source: Gao et al., "Large-scale Unsupervised Semantic Segmentation" (ImageNet-S), https://github.com/LUSSeg/ImageNet-S.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from luss.data.imagenet_s import MASK_FOLDER_SUFFIX, SPLITS
from luss.data.imagenet_s_build_archive import MASKED_SPLITS
from luss.data.imagenet_s_build_place import Placer
from luss.data.imagenet_s_build_sources import ImageNet, Lists, image_names
from luss.errors import LussError

MERGES = {
    "n04356056": "n04355933",
    "n04493381": "n02808440",
    "n03642806": "n03832673",
    "n04008634": "n03773504",
    "n03887697": "n15075141",
}
"""In ImageNet-S-919: ImageNet's folder to the category that takes its images; files keep their names."""

PUBLISHED: dict[int, dict[str, int]] = {
    50: {"categories": 50, "train": 64_431, "train-semi": 500, "validation": 752, "test": 1_682},
    300: {"categories": 300, "train": 384_862, "train-semi": 3_000, "validation": 4_097, "test": 9_088},
    919: {"categories": 919, "train": 1_183_322, "train-semi": 9_190, "validation": 12_419, "test": 27_423},
}
"""Published numbers of categories and images of each set."""


EXTRA = "train-extra"
"""Folder of ImageNet's training images that ImageNet-S-919 has no category for."""


@dataclass(frozen=True)
class Missing:
    """Something that the annotations or lists name and ImageNet does not hold.

    Attributes:
        data_set: "ImageNetS50".
        split: "validation".
        name: "n01443537/ILSVRC2012_val_00000236.JPEG"; a folder's ends in "/".
        reason: What was looked for.
    """

    data_set: str
    split: str
    name: str
    reason: str


@dataclass(frozen=True)
class Count:
    """One number of a set: published and found on disk after the build; masks are as many as their split's images."""

    what: str
    expected: int
    found: int


@dataclass
class Built:
    """What a build has made of one set.

    Attributes:
        name: "ImageNetS50".
        folder: Where it is.
        counts: Published and found numbers.
        num_made: Links and copies made by this run.
        num_missing: Things that were reported as missing.
        notes: What else a person should know, a sentence each.
    """

    name: str
    folder: Path
    counts: list[Count] = field(default_factory=list)
    num_made: int = 0
    num_missing: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def as_published(self) -> bool:
        """Whether nothing is missing and every number is the published one."""
        return self.num_missing == 0 and all(count.expected == count.found for count in self.counts)


def build_set(
    number: int,
    annotations: Path,
    imagenet: ImageNet,
    out: Path,
    *,
    copy: bool = False,
    lists: Lists | None = None,
    on_missing: Callable[[Missing], None] = lambda missing: None,
    on_progress: Callable[[str, int, int], None] = lambda split, done, total: None,
) -> Built:
    """Builds one set, or completes it: only what is missing or wrong is made. Memory: the names of ImageNet's val.

    Args:
        number: 50, 300 or 919.
        annotations: Folder with `train-semi-segmentation` and `validation-segmentation`, as `find_sets` finds it.
        imagenet: The pictures.
        out: Folder of all sets; this one goes to `ImageNetS<number>` in it.
        copy: Copies instead of links. Links are one a folder in `train`, where a category is one folder of ImageNet, else one a file.
        lists: Names the test images; without it the set has no test split.
        on_missing: Told what was not found; the build goes on.
        on_progress: Told (split, categories done, categories in all).

    Raises:
        LussError: The annotations hold no category, or something else is in a file's place; a line of the lists is damaged.
    """
    return _Build(number, annotations, imagenet, out, copy, lists, on_missing, on_progress).run()


@dataclass
class _Build:
    number: int
    annotations: Path
    imagenet: ImageNet
    out: Path
    copy: bool
    lists: Lists | None
    on_missing: Callable[[Missing], None]
    on_progress: Callable[[str, int, int], None]

    def __post_init__(self) -> None:
        self.annotations = self.annotations.absolute()
        name = f"ImageNetS{self.number}"
        self.built, self.place = Built(name, self.out.absolute() / name), Placer(self.out, copy=self.copy)
        self.categories, self.val = _categories(self.annotations), self.imagenet.val_images()

    def run(self) -> Built:
        for split in (*SPLITS, EXTRA):
            folder = self.built.folder / split
            if folder.is_symlink():
                raise LussError(f"{folder} is a link, through which files would be written elsewhere: remove the link")
        self.masks()
        self.annotated("train-semi", self.imagenet.train_image)
        self.annotated("validation", self.val_image)
        self.test()
        self.train()
        if self.number == 919 and self.imagenet.train.is_dir():
            self.place.linked_folder(self.imagenet.train, self.built.folder / "train-full")
            self.extra()
        self.count()
        self.built.num_made = self.place.num_made
        return self.built

    def val_image(self, stem: str) -> Path | None:
        found = self.val.get(stem)
        return None if found is None else self.imagenet.val / found

    def missing(self, split: str, name: str, reason: str) -> None:
        self.built.num_missing += 1
        self.on_missing(Missing(self.built.name, split, name, reason))

    def masks(self) -> None:
        for split in MASKED_SPLITS:
            source, target = self.folders(split)
            if source == target:  # the archive was unpacked into its place
                continue
            for category in self.progress(split + MASK_FOLDER_SUFFIX):
                self.folder_of_files(target / category, source / category, _mask_names(source / category))

    def folder_of_files(self, target: Path, source: Path, names: list[str]) -> None:
        self.place.real_folder(target)
        for name in names:
            self.place.file(source / name, target / name)

    def annotated(self, split: str, find: Callable[[str], Path | None]) -> None:
        """Puts the image of every mask of a split into its place."""
        source, _ = self.folders(split)
        for category in self.progress(split):
            if not (names := _mask_names(source / category)):
                self.missing(split, f"{category}/", "the annotations hold no mask of this category")
            self.images(split, category, ((os.path.splitext(name)[0], None) for name in names), find)

    def images(
        self, split: str, category: str, wanted: Iterable[tuple[str, str | None]], find: Callable[[str], Path | None]
    ) -> None:
        """Puts images (name in ImageNet, name in the set or None for the same) into a category's folder."""
        folder = self.built.folder / split / category
        self.place.real_folder(folder)
        for stem, name in wanted:
            if (source := find(stem)) is None:
                self.missing(split, f"{category}/{name or stem + '.JPEG'}", f"{stem} is not in ImageNet's folder")
            else:
                self.place.file(source, folder / (name or source.name))

    def test(self) -> None:
        if self.lists is None or not self.lists.has_test(self.number):
            if (self.built.folder / "test").is_dir():
                return
            self.built.notes.append(
                f"{self.built.name} has no test split: its images are only known from the toolkit's lists (--lists). Its masks are not "
                "public in any case"
            )
            return
        published = self.lists.categories(self.number)
        if published is not None and published != self.categories:
            raise LussError(
                f"the categories of {self.annotations} are not those of {self.lists.folder}: "
                f"{_difference(set(self.categories), set(published))}"
            )
        for stem, target in self.lists.test(self.number):
            category, name = target.split("/")
            self.images("test", category, [(stem, name)], self.val_image)

    def train(self) -> None:
        for category in self.progress("train"):
            merged = [wnid for wnid, home in MERGES.items() if home == category and self.number == 919]
            target, present = self.built.folder / "train" / category, []
            for wnid in (category, *merged):
                source = self.imagenet.train / wnid
                if source.is_dir():
                    present.append(source)
                else:
                    self.missing("train", f"{category}/", f"there is no folder {source} of {wnid}")
            if not merged and not self.place.copy and present and self.place.linked_folder(present[0], target):
                continue
            for source in present:
                self.folder_of_files(target, source, image_names(source))

    def extra(self) -> None:
        """Puts the folders of ImageNet's train that no category takes beside `train`: the published model learned from all of ImageNet."""
        others = {entry.name for entry in os.scandir(self.imagenet.train) if entry.is_dir() and entry.name[:1] != "."}
        for wnid in sorted(others - set(self.categories) - set(MERGES)):
            source, target = self.imagenet.train / wnid, self.built.folder / EXTRA / wnid
            if self.place.copy or not self.place.linked_folder(source, target):
                self.folder_of_files(target, source, image_names(source))

    def progress(self, split: str) -> Iterator[str]:
        for done, category in enumerate(self.categories):
            self.on_progress(split, done, len(self.categories))
            yield category
        self.on_progress(split, len(self.categories), len(self.categories))

    def folders(self, split: str) -> tuple[Path, Path]:
        """Where a split's masks come from, and where they go."""
        return self.annotations / (split + MASK_FOLDER_SUFFIX), self.built.folder / (split + MASK_FOLDER_SUFFIX)

    def count(self) -> None:
        expected = PUBLISHED[self.number]
        self.built.counts.append(Count("categories", expected["categories"], len(self.categories)))
        for split in SPLITS:
            folder = self.built.folder / split
            if split != "test" or folder.is_dir():
                self.built.counts.append(Count(split, expected[split], _num_files(folder)))
            if split in MASKED_SPLITS:
                masks = _num_files(folder.with_name(split + MASK_FOLDER_SUFFIX))
                self.built.counts.append(Count(f"{split} masks", expected[split], masks))


def _categories(annotations: Path) -> list[str]:
    """The sorted names of all categories that have masks."""
    found: set[str] = set()
    for split in MASKED_SPLITS:
        folder = annotations / (split + MASK_FOLDER_SUFFIX)
        if folder.is_dir():
            found |= {entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")}
    if not found:
        raise LussError(f"{annotations} holds no category: expected <split>-segmentation/<wnid>/<name>.png")
    return sorted(found)


def _mask_names(folder: Path) -> list[str]:
    return [name for name in image_names(folder) if name.endswith(".png")]


def _num_files(folder: Path) -> int:
    """Images in all categories of a split; links to nothing do not count."""
    if not folder.is_dir():
        return 0
    total = 0
    for category in filter(os.DirEntry.is_dir, os.scandir(folder)):
        names = image_names(Path(category.path))
        # A linked folder holds ImageNet's own files.
        linked = category.is_symlink()
        total += len(names) if linked else sum(os.path.exists(os.path.join(category.path, name)) for name in names)
    return total


def _difference(found: set[str], published: set[str]) -> str:
    parts = [
        f"{len(names)} {words} ({', '.join(sorted(names)[:3])})"
        for words, names in (("surplus", found - published), ("missing", published - found))
        if names
    ]
    return " and ".join(parts) or "the order differs"
