"""ImageNet (ILSVRC 2012): train, val with either list of boxes, and ImageNetV2 of `wsol-eval` as val2."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from posixpath import basename
from typing import Literal

from tokenloc._names import one_of, unknown_name
from tokenloc.data import lists
from tokenloc.data.base import AnyPath, Classes, refuse, require_unique, select_classes, shorten
from tokenloc.data.imagenet_truth import WNID, Truth, find_truth, read_titles, read_truth, stem_of, wnid_of
from tokenloc.data.images import IMAGE_SUFFIXES, names_under
from tokenloc.data.listed import ListedDataset
from tokenloc.data.lists import Listing
from tokenloc.data.registry import DATASETS

SOURCE = "ILSVRC 2012 (train, val and the bounding boxes of both) from image-net.org"
REMEDY = "correct it, or unpack the dataset again"

WhichBoxes = Literal["all", "first", "none"]

_SECOND = ("val2", "imagenetv2-threshold0.7", "imagenetv2-threshold0.7-format-val")
_WSOL_EVAL_SPLIT = {"train": "train", "val": "test", "val2": "val"}


@DATASETS.register("imagenet")
class ImageNetDataset(ListedDataset):
    """ILSVRC 2012: 1,281,167 training and 50,000 validation images of 1000 classes, with 80,477 boxes in val.

    Splits are `train/WNID/*.JPEG`; `val/*.JPEG` or `val/WNID/*.JPEG` (`wsol-eval` calls it "test"); and ImageNetV2 as
    `val2/LABEL/*.jpeg` (`wsol-eval`: "val"), for choosing thresholds. Ids are those of `wsol-eval`:
    `val/ILSVRC2012_val_00000001.JPEG` wherever that image is below `val`.

    Boxes of val, which also give the classes of a flat `val`, are searched in `Annotations/CLS-LOC/val`,
    `Annotations/val` or beside the images (XML), in Kaggle's `LOC_val_solution.csv`, or in TS-CAM's
    `ILSVRC2012_list/val_folder_new.txt`, in this order, and kept unchanged (``read_truth``). Class names are WordNet
    ids, or words from LOC_synset_mapping.txt, synset_words.txt or classes.txt, in the order of the ids; a selection may
    use either.

    Args:
        boxes: "all" boxes of an image, the "first" of its XML file (50,000 in val, as in many papers), or "none".
        annotations: a folder of XML files or a list with boxes, instead of those found for val; train's 544,546 files
            are not read by default.
        metadata: the `metadata/ILSVRC` of `wsol-eval` (or the folder above it, or the split's own), whose lists then
            replace the folders. A mapping.txt beside them gives the original names of ImageNetV2's files.
        missing: "error", or "skip" images that are listed but absent; see ``ListedDataset``.
    """

    name = "imagenet"
    splits = ("train", "val", "val2")
    measured_split = "val"
    held_out_split = "val2"
    source = SOURCE
    markers = ("train", *_SECOND, "val")
    usual_folders = (
        *("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "ILSVRC", "ILSVRC2012"),
        *("ImageNet_ILSVRC2012", "imagenet", "ImageNet"),
    )

    def __init__(
        self,
        root: AnyPath,
        split: str,
        classes: Classes = None,
        *,
        boxes: str = "all",
        annotations: AnyPath = None,
        metadata: AnyPath = None,
        missing: str = "error",
    ) -> None:
        one_of("value of option boxes:", boxes, WhichBoxes)
        if metadata is not None and annotations is not None:
            raise ValueError("options metadata and annotations both give boxes; give one of them")
        self._wanted, self._boxes, self._annotations, self._metadata = classes, boxes, annotations, metadata
        super().__init__(root, split, classes, missing=missing)
        if boxes != "none" and split != "train" and not self.has_boxes:
            folders = shorten(_annotation_folders(self.folder))
            self.remark("boxes", f"were not found in {folders}: only classification is evaluated; get {SOURCE}")

    def _list_images(self, folder: Path, split: str) -> Listing:
        listing = _listing(folder, split, self._annotations, self._metadata)
        if self._boxes != "all":
            first = {name: boxes[:1] for name, boxes in listing.boxes.items()} if self._boxes == "first" else {}
            listing = replace(listing, boxes=first)
        return _with_names(listing, self._wanted, read_titles(_annotation_folders(folder)))


def _annotation_folders(folder: Path) -> tuple[Path, ...]:
    """Return the folders that may hold annotations: in Kaggle's archive also those above the images."""
    return (folder, *folder.parents[:3]) if folder.name == "CLS-LOC" else (folder,)


def _listing(folder: Path, split: str, annotations: AnyPath, metadata: AnyPath) -> Listing:
    """Return a split with WordNet ids as class names."""
    if metadata is not None:
        files = lists.find_split_files(metadata, "ILSVRC", _WSOL_EVAL_SPLIT[split])
        return _from_split_files(files, folder, split)
    if split == "val2":
        return _second(folder)
    sources = [Path(annotations)] if annotations is not None else []
    if split == "train":
        return _train(folder, sources)
    return _val(folder, sources or find_truth(_annotation_folders(folder)))


def _train(folder: Path, sources: Sequence[Path]) -> Listing:
    """Return the images of train/WNID, with the boxes of the first of ``sources``."""
    train = folder / "train"
    lists.require([train], SOURCE)
    wnids = _class_folders(train)
    names = names_under(train, IMAGE_SUFFIXES)
    refuse([name for name in names if "/" not in name], f"{train}: images outside the class folders", REMEDY)
    shared = {wnid: wnid for wnid in wnids}  # one string for all images of a class
    class_of = {f"train/{name}": shared[name.partition("/")[0]] for name in names}
    truth = read_truth(sources[0], {stem_of(name) for name in names}) if sources else {}
    return _with_truth(Listing(wnids, class_of, (folder,), from_disk=True), truth)


def _val(folder: Path, sources: Sequence[Path]) -> Listing:
    """Return the images of val, flat or in WordNet folders; the first of ``sources`` gives boxes and classes."""
    val = folder / "val"
    lists.require([val], SOURCE)
    names = names_under(val, IMAGE_SUFFIXES)
    if not names:
        raise FileNotFoundError(f"{val} holds no image; unpack {SOURCE} there")
    files = {basename(name): name for name in names}
    require_unique(list(map(basename, names)), val)
    truth = read_truth(sources[0]) if sources else {}
    wnids = _val_classes(val, files, truth, sources)
    nested = any("/" in name for name in names)
    classes = _class_folders(val) if nested else tuple(sorted({*wnids.values()}))
    stems = {stem_of(file) for file in files}
    for stem, known in truth.items():  # annotated but absent; in a tree of some classes, of those classes
        if stem not in stems and known.wnid is not None and (not nested or known.wnid in classes):
            wnids[f"{stem}.JPEG"] = known.wnid
    classes = tuple(sorted({*classes, *wnids.values()}))
    moved = {f"val/{file}": f"val/{name}" for file, name in files.items() if file != name}
    class_of = {f"val/{file}": wnids[file] for file in sorted(wnids)}
    return _with_truth(Listing(classes, class_of, (folder,), files=moved), truth)


def _val_classes(
    val: Path, files: Mapping[str, str], truth: Mapping[str, Truth], sources: Sequence[Path]
) -> dict[str, str]:
    """Return the WordNet ids of val's files: their folders' names, else those of ``truth``."""
    listed = {file: truth[stem].wnid if (stem := stem_of(file)) in truth else None for file in files}
    wnids = {file: name.rpartition("/")[0] or listed[file] or "" for file, name in files.items()}
    unknown = [file for file, wnid in wnids.items() if not wnid]
    contradicted = [files[file] for file, wnid in wnids.items() if listed[file] not in (None, wnid)]
    given = f"in {shorten(sources)}" if sources else "by XML files, a LOC_val_solution.csv or a released list"
    refuse(unknown, f"{val}: images whose class is given neither by a folder WNID nor {given}", f"get {SOURCE}")
    refuse(contradicted, f"{val}: images in the folder of another class than in {shorten(sources)}", REMEDY)
    return wnids


def _second(folder: Path) -> Listing:
    """Return ImageNetV2, by the `wsol-eval` split files in its folder if any, else from folders named by label."""
    second = _second_folder(folder)
    if lists.has_split_files(second):
        return _from_split_files(second, folder, "val2")
    files = {f"val2/{name}": f"{second.name}/{name}" for name in names_under(second, IMAGE_SUFFIXES)}
    class_of = {
        name: wnid_of(lists.integer(name.split("/")[1], location), location)
        for name, location in ((name, str(second.parent / file)) for name, file in files.items())
    }
    return Listing(tuple(sorted(set(class_of.values()))), class_of, (second.parent,), files=files, from_disk=True)


def _second_folder(folder: Path) -> Path:
    candidates = [place / name for place in (folder, folder.parent) for name in _SECOND]
    found = next(filter(Path.is_dir, candidates), None)
    if found is None:
        raise FileNotFoundError(
            f"imagenet has a val2 split only with ImageNetV2: looked for {shorten(candidates, 9)}; its boxes, "
            f"and where to get its images, are in {lists.WSOL_EVAL}"
        )
    return found


def _from_split_files(files: Path, folder: Path, split: str) -> Listing:
    """Return a split of the `wsol-eval` files, with ids `train/WNID/FILE`, `val/FILE` or `val2/LABEL/FILE`."""
    listing = lists.read_split_files(files, lambda _, label: wnid_of(label, str(files / "class_labels.txt")))
    moved: dict[str, str] = {}
    if split == "val2":
        second = _second_folder(folder)
        folder, moved = second.parent, _second_files(listing.class_of, second, files / "mapping.txt")
    elif split == "val" and (folder / "val").is_dir():
        moved = {f"val/{basename(name)}": f"val/{name}" for name in names_under(folder / "val", IMAGE_SUFFIXES)}
    return replace(listing, folders=(folder,), files=moved)


def _second_files(ids: Iterable[str], second: Path, mapping: Path) -> dict[str, str]:
    """Return ImageNetV2's files, relative to the parent of ``second``, by their `wsol-eval` or original names."""
    present = set(names_under(second, IMAGE_SUFFIXES))
    pairs = [row for _, row in lists.rows(mapping, 2, ",", optional=True)]
    other = dict(pairs) | {old: new for new, old in pairs}
    files = {name: name.partition("/")[2] for name in ids}
    return {name: f"{second.name}/{file if file in present else other.get(file, file)}" for name, file in files.items()}


def _with_truth(listing: Listing, truth: Mapping[str, Truth]) -> Listing:
    """Return the listing with the boxes and sizes of its images."""
    known = {name: truth[stem] for name in listing.class_of if (stem := stem_of(name)) in truth} if truth else {}
    boxes = {name: one.boxes for name, one in known.items()}
    return replace(listing, boxes=boxes, sizes={name: one.size for name, one in known.items() if one.size})


def _with_names(listing: Listing, wanted: Classes, titles: Mapping[str, str]) -> Listing:
    """Return the listing with ``titles`` as class names, and for ``wanted`` classes the names in that list."""
    names = {wnid: titles.get(wnid, wnid) for wnid in listing.classes}
    if wanted and not isinstance(wanted, str):
        wnid_by_name = {name: wnid for wnid, name in names.items()} | {wnid: wnid for wnid in names}
        unknown = next((name for name in wanted if name not in wnid_by_name), None)
        if unknown is not None:
            raise unknown_name("class", unknown, names.values())
        wnids = [wnid_by_name[name] for name in wanted]
        select_classes(listing.classes, wnids)
        names |= dict(zip(wnids, wanted, strict=True))
    if all(wnid == name for wnid, name in names.items()):
        return listing
    class_of = {image: names[wnid] for image, wnid in listing.class_of.items()}
    return replace(listing, classes=tuple(names.values()), class_of=class_of)


def _class_folders(folder: Path) -> tuple[str, ...]:
    """Return the names of the class folders; raise if there are others, or none."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    others = [name for name in names if not WNID.fullmatch(name)]
    refuse(others, f"{folder}: folders not named by a WordNet id such as n01440764", "dataset 'folder' takes any")
    if not names:
        archives = [path.name for path in folder.glob("*.tar")]
        remark = f"; unpack each of its {len(archives)} archives into a folder of the same name" if archives else ""
        raise FileNotFoundError(f"{folder} holds no class folder such as n01440764{remark}; expected {SOURCE}")
    return tuple(names)
