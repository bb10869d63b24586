"""Samples, and the base class of all datasets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from tokenloc._names import unknown_name
from tokenloc.boxes.frame import Size, checked_boxes, same_shape
from tokenloc.boxes.iou import box_faults
from tokenloc.data.images import read_image

AnyPath = str | Path | None
Classes = Sequence[str] | None
Boxes = NDArray[np.float64]
"""[G, 4] float64 xyxy, original pixels, half-open."""


def as_boxes(boxes: ArrayLike) -> Boxes:
    """Return boxes as read-only float64 [G, 4]; raises ValueError for another shape."""
    array: Boxes = checked_boxes(boxes).copy()
    array.setflags(write=False)
    return array


BACKGROUND = "_background"
"""The class of images without an object: the classifier learns it, and it never gets a box."""

NO_BOXES = as_boxes(())
"""No boxes: float64 [0, 4], read-only, shared by all samples without boxes."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One image of a dataset and its annotation.

    Args:
        id: unique: the path in the dataset's lists (those of `wsol-eval`, if any) or its folder, with forward slashes.
        path: the image file; None for generated or embedded images.
        label: class index into the dataset's ``classes``.
        boxes: [G, 4] xyxy, original pixels, half-open; values are those of the files, see ``ImageDataset.check``.
    """

    id: str
    path: Path | None
    label: int
    boxes: Boxes = field(default_factory=lambda: NO_BOXES)


class SampleTable(Sequence[Sample]):
    """Samples stored as columns and created on access, so that a million of them take seconds and little memory.

    Images are ``folder``/``files``[id] (default: the id), or have no files if ``folder`` is None. ``boxes`` are by id.
    """

    def __init__(
        self,
        ids: Sequence[str],
        labels: NDArray[np.int64],
        folder: Path | None = None,
        files: Mapping[str, str] | None = None,
        boxes: Mapping[str, Boxes] | None = None,
    ) -> None:
        self.ids, self.labels, self.folder = ids, labels, folder
        self.files, self.boxes = files or {}, boxes or {}

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        name = self.ids[index]
        path = None if self.folder is None else self.folder / self.files.get(name, name)
        return Sample(name, path, int(self.labels[index]), self.boxes.get(name, NO_BOXES))


@dataclass(frozen=True)
class Problem:
    """One problem of a sample, or of an annotation or class without a sample.

    >>> print(Problem("cat/1.jpg", Path("pets/cat/1.jpg"), "the file is empty"))
    pets/cat/1.jpg: the file is empty
    """

    id: str
    path: Path | None
    reason: str

    def __str__(self) -> str:
        return f"{self.id if self.path is None else self.path}: {self.reason}"


class ImageDataset:
    """Base of all datasets: a sequence of samples, whose images and masks are read on request.

    A dataset is one file: a subclass with ``splits`` and ``__init__(root, split, classes=None, *, options)``,
    registered by ``@DATASETS.register(name)``. Listing opens no image.

    Args:
        split: name of the split.
        classes: class names; a sample's label is an index into them.
        samples: all samples of the split, with unique ids.
        sizes: (width, height) by sample id, if the dataset's lists state them.
    """

    name: str = "images"
    splits: tuple[str, ...] = ("train", "val", "test")
    measured_split: str = "test"
    held_out_split: str = "val"
    has_masks: bool = False
    scaled_masks: bool = False
    """Whether masks may be of another resolution than their images."""
    skipped: Sequence[str] = ()
    """Ids of listed images that were left out because their files are missing."""
    ids: Sequence[str]
    labels: NDArray[np.int64]
    """Class indices of all samples, [N] int64."""

    def __init__(
        self, split: str, classes: Sequence[str], samples: Sequence[Sample], sizes: Mapping[str, Size] | None = None
    ) -> None:
        self.require_split(split)
        self.split, self.classes, self.samples, self.sizes = split, tuple(classes), samples, sizes or {}
        if isinstance(samples, SampleTable):
            self.ids, self.labels = samples.ids, samples.labels
        else:
            self.ids = [sample.id for sample in samples]
            self.labels = np.array([sample.label for sample in samples], dtype=np.int64)
        if not len(samples):
            raise ValueError(f"the {split} split of {self.name} has no image of the classes {self.classes}")
        require_unique(self.ids, f"{self.name} {split}")
        outside = np.flatnonzero((self.labels < 0) | (self.labels >= len(classes))).tolist()
        report = f"{self.name} {split} has labels outside its {len(classes)} classes"
        refuse([self.ids[index] for index in outside], report, "correct them")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    @property
    def has_boxes(self) -> bool:
        """Whether any sample has a box."""
        if isinstance(self.samples, SampleTable):
            return any(map(len, self.samples.boxes.values()))
        return any(len(sample.boxes) for sample in self.samples)

    def image(self, index: int, min_size: Size | None = None) -> Image.Image:
        """Return an image, upright RGB; see ``read_image`` for ``min_size`` and errors."""
        path = self.samples[index].path
        if path is None:
            raise NotImplementedError(f"{type(self).__name__} has samples without a file and must override image()")
        return read_image(path, min_size=min_size)

    def fingerprint(self, index: int) -> str:
        """Return a text that changes when the image file does; raises OSError if the file does not exist."""
        path = self.samples[index].path
        return "generated" if path is None else file_fingerprint(path)

    def mask(self, index: int) -> NDArray[np.uint8] | None:
        """Return a mask [H, W] uint8 of original pixels (0 background, 1 object, 255 ignored), or None."""
        del index
        return None

    def declared_size(self, index: int) -> Size | None:
        """Return the (width, height) that the dataset's lists state for an image, or None."""
        return self.sizes.get(self.samples[index].id)

    def require_split(self, split: str) -> None:
        """Raise ValueError, listing the valid names, for an unknown split."""
        if split not in self.splits:
            raise unknown_name(f"split of dataset {self.name!r}:", split, self.splits)

    def mask_fault(self, size: Size, mask: NDArray[np.uint8] | None) -> str | None:
        """Return an error text if a mask [H, W] does not match its image's ``size`` (width, height)."""
        mask_size = size if mask is None else (mask.shape[1], mask.shape[0])
        if mask_size == size or (self.scaled_masks and same_shape(size, mask_size)):
            return None
        return f"is {_by(size)}, but its mask {_by(mask_size)}"

    def check(self) -> list[Problem]:
        """Read every image with its boxes and mask; return all problems."""
        return [problem for index in range(len(self)) for problem in self._problems(index)]

    def without_boxes(self) -> list[Problem]:
        """Return a problem for each sample without a box, except those of ``BACKGROUND``."""
        bare = (sample for sample in self if not len(sample.boxes) and self.classes[sample.label] != BACKGROUND)
        return [Problem(sample.id, sample.path, "has no box, while others have") for sample in bare]

    def subset(self, indices: Iterable[int]) -> Subset:
        """Return the samples at ``indices`` as a dataset of the same split and classes."""
        return Subset(self, indices)

    def with_objects(self) -> ImageDataset:
        """Return the samples of all classes but ``BACKGROUND``; the classes stay."""
        if BACKGROUND not in self.classes:
            return self
        return self.subset(np.flatnonzero(self.labels != self.classes.index(BACKGROUND)))

    def in_class_order(self, classes: Sequence[str], every: bool = True) -> ImageDataset:
        """Return this dataset with labels that are indices into ``classes``.

        Raises ValueError if these are not its own classes in some order or, unless ``every``, these and more.
        """
        if not set(classes) >= set(self.classes) or (every and len(classes) != len(self.classes)):
            expected, own = (f"the {len(names)} classes {shorten(names)}" for names in (classes, self.classes))
            raise ValueError(f"expected {expected}; {self.name} {self.split} has {own}")
        return self if tuple(classes) == self.classes else Subset(self, range(len(self)), classes)

    def _problems(self, index: int) -> Iterator[Problem]:
        sample = self.samples[index]
        try:
            size = self.image(index).size
            mask = self.mask(index)
        except (ValueError, OSError) as error:
            yield Problem(sample.id, sample.path, str(error).removeprefix(f"{sample.path}: "))
            return
        faults = enumerate(box_faults(sample.boxes, size))
        reasons = [f"box {number} is {fault}" for number, fault in faults if fault]
        declared = self.declared_size(index)
        if declared is not None and declared != size:
            reasons.append(f"is {_by(size)}, but the dataset's lists say {_by(declared)}: its boxes may be off")
        if mask is None and self.has_masks:
            reasons.append("has no mask, while others have")
        if fault := self.mask_fault(size, mask):
            reasons.append(fault)
        yield from (Problem(sample.id, sample.path, reason) for reason in reasons)


class Subset(ImageDataset):
    """Samples of a dataset in the order of ``indices``, with labels in the order of ``classes`` (None: its own)."""

    def __init__(self, dataset: ImageDataset, indices: Iterable[int], classes: Classes = None) -> None:
        self.name, self.splits = dataset.name, dataset.splits
        self.has_masks, self.scaled_masks = dataset.has_masks, dataset.scaled_masks
        self.dataset, self.skipped = dataset, dataset.skipped
        self.indices = tuple(int(index) for index in indices)
        outside = [index for index in self.indices if not 0 <= index < len(dataset)]
        if outside:
            raise IndexError(f"{shorten(outside)} outside the {len(dataset)} samples of {dataset.name} {dataset.split}")
        samples = [dataset.samples[index] for index in self.indices]
        if classes is not None:
            labels = [list(classes).index(name) for name in dataset.classes]
            samples = [replace(sample, label=labels[sample.label]) for sample in samples]
        super().__init__(dataset.split, classes or dataset.classes, samples, dataset.sizes)

    def image(self, index: int, min_size: Size | None = None) -> Image.Image:
        """See ``ImageDataset.image``."""
        return self.dataset.image(self.indices[index], min_size)

    def fingerprint(self, index: int) -> str:
        """See ``ImageDataset.fingerprint``."""
        return self.dataset.fingerprint(self.indices[index])

    def mask(self, index: int) -> NDArray[np.uint8] | None:
        """See ``ImageDataset.mask``."""
        return self.dataset.mask(self.indices[index])


class UnknownClassError(ValueError):
    """A class was asked for that a dataset does not have."""


def select_classes(available: Sequence[str], wanted: Classes) -> tuple[str, ...]:
    """Return the ``wanted`` classes (None: all) in the order of ``available``.

    >>> select_classes(["ant", "bee", "cat"], ["cat", "ant"])
    ('ant', 'cat')
    """
    if wanted is None:
        return tuple(available)
    if isinstance(wanted, str) or not wanted:
        raise ValueError(f"classes must be a list of at least one class name, got {wanted!r}")
    for name in wanted:
        if name not in available:
            raise UnknownClassError(unknown_name("class", name, available))
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"classes names one class twice: {', '.join(wanted)}")
    return tuple(name for name in available if name in set(wanted))


def require_root(root: AnyPath, dataset: str, source: str) -> Path:
    """Return ``root`` as a path; raise, naming the ``source`` of the files, if it is None or no folder."""
    if root is None:
        raise ValueError(f"dataset {dataset!r} needs a root folder, got None; give the folder of {source}")
    if not Path(root).is_dir():
        raise FileNotFoundError(f"{root}: no such folder; expected {source}")
    return Path(root)


def file_fingerprint(path: Path) -> str:
    """Return the path, size and modification time of a file; raises OSError if it does not exist."""
    status = path.stat()
    return f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"


def refuse(
    names: Sequence[object], report: str, remedy: str, error: type[ValueError | FileNotFoundError] = ValueError
) -> None:
    """Raise ``error`` if there are any ``names``.

    >>> refuse(["a.jpg"], "list.txt lists images more than once", "remove the duplicates")
    Traceback (most recent call last):
    ValueError: list.txt lists images more than once (1): a.jpg; remove the duplicates
    """
    if names:
        raise error(f"{report} ({len(names)}): {shorten(names)}; {remedy}")


def require_unique(names: Sequence[str], source: object) -> None:
    """Raise ValueError if ``names``, which ``source`` lists, hold a duplicate."""
    duplicates = [name for name, count in Counter(names).items() if count > 1]
    refuse(duplicates, f"{source} lists images more than once", "remove the duplicates")


def shorten(items: Sequence[object], limit: int = 5) -> str:
    """Return the first ``limit`` items as text, and how many more there are.

    >>> shorten(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    first = ", ".join(map(str, items[:limit]))
    return f"{first} and {len(items) - limit} more" if len(items) > limit else first


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
