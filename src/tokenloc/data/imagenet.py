"""ImageNet, as ILSVRC 2012 has it: train, val with either list of boxes, and the `wsol-eval` evaluator's ImageNetV2 as val2."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from tokenloc._names import one_of, unknown_name
from tokenloc.data import splits as lists
from tokenloc.data.base import named, require_root
from tokenloc.data.imagenet_truth import WNID, Truth, find_truth, read_titles, read_truth, stem_of, wnid_of
from tokenloc.data.images import IMAGE_SUFFIXES, names_under
from tokenloc.data.listed import ListedDataset, Listing, own_folder
from tokenloc.data.registry import DATASETS

SOURCE = "ILSVRC 2012 (train, val and the bounding boxes of both) from image-net.org"
"""Where a person gets the dataset."""

WhichBoxes = Literal["all", "first", "none"]

_SECOND = ("val2", "imagenetv2-threshold0.7", "imagenetv2-threshold0.7-format-val")
_USUAL = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "ILSVRC", "ILSVRC2012", "ImageNet_ILSVRC2012", "imagenet", "ImageNet")
_REFEREES_SPLIT = {"train": "train", "val": "test", "val2": "val"}


@DATASETS.register("imagenet")
class ImageNetDataset(ListedDataset):
    """ILSVRC 2012: 1,281,167 training and 50,000 validation images of 1000 classes, with 80,477 boxes in val.

    Splits are named after their folders: `train/WNID/*.JPEG`; `val/*.JPEG` or `val/WNID/*.JPEG`, the images that
    papers (and the `wsol-eval` evaluator, who calls them "test") measure on; `val2/LABEL/*.jpeg`, the 10,000 images of ImageNetV2
    to which the `wsol-eval` evaluator drew boxes (and which it calls "val"), for choosing thresholds. Ids are the `wsol-eval` evaluator's:
    `val/ILSVRC2012_val_00000001.JPEG` wherever that image lies below `val`.

    Boxes of val are found in `Annotations/CLS-LOC/val`, `Annotations/val` or beside the images (the official XML), in
    Kaggle's `LOC_val_solution.csv`, or in `ILSVRC2012_list/val_folder_new.txt` (released with TS-CAM), in this
    order; they are kept as they stand, see ``read_truth``. The classes of a flat `val` come from there too. Classes
    are called by WordNet id, or in words where the dataset's folder has LOC_synset_mapping.txt, synset_words.txt
    or classes.txt; their order is that of the ids.

    Args:
        root: the folder with `train`, `val` or `val2`, the one above it, or that of Kaggle's archive.
        split: "train", "val" or "val2".
        classes: WordNet ids or names in words, and so they are called then; labels follow the order of the ids.
        boxes: "all" boxes of an image (80,477 in val), the "first" of its XML file (the list of 50,000 that many
            papers measured with), or "none".
        annotations: a folder of XML files or a list with the boxes of val, in place of those that are found; or of
            train, whose boxes (544,546 XML files, minutes to read) are left alone where they are not named here.
        metadata: the `wsol-eval` evaluator's `metadata/ILSVRC` (or the folder above, or the split's own): its lists then give
            images, labels, boxes and sizes. A mapping.txt beside them names ImageNetV2's original files.
        missing: "error", or "skip" images that are listed but absent; see ``ListedDataset``.

    Raises:
        FileNotFoundError: where folders or images are missing. A val without boxes is a warning.
        ValueError: where lists are damaged or contradict one another, an image has no class, or an argument has a
            value unknown.
    """

    name = "imagenet"
    splits = ("train", "val", "val2")
    measured_split = "val"
    held_out_split = "val2"
    source = SOURCE

    def __init__(
        self,
        root: str | Path | None,
        split: str,
        classes: Sequence[str] | None = None,
        *,
        boxes: str = "all",
        annotations: str | Path | None = None,
        metadata: str | Path | None = None,
        missing: str = "error",
    ) -> None:
        self.require_split(split)
        one_of("value of option boxes:", boxes, WhichBoxes)
        if metadata is not None and annotations is not None:
            raise ValueError("options metadata and annotations both give boxes; give one of them")
        folder = own_folder(require_root(root, self.name, SOURCE), ("train", *_SECOND, "val"), _USUAL)
        places = (folder, *folder.parents[:3]) if folder.name == "CLS-LOC" else (folder,)
        if metadata is not None:
            lists_of_split = lists.find_split_files(metadata, "ILSVRC", _REFEREES_SPLIT[split])
            listing = _from_split_files(lists_of_split, folder, split)
        elif split == "val2":
            listing = _second(folder)
        else:
            sources = _sources(split, annotations, places)
            listing = _train(folder, sources) if split == "train" else _val(folder, sources)
        titles = read_titles(places)
        wanted = _wnids(classes, listing.classes, titles)
        super().__init__(split, _with_boxes(listing, boxes), wanted, missing)
        names = titles if wanted is None or classes is None else dict(zip(wanted, classes, strict=True))
        self.classes = tuple(names.get(wnid, wnid) for wnid in self.classes)
        if boxes != "none" and split != "train" and not self.has_boxes:
            self.remark("boxes", f"were not found in {named(places)}: only classification is measured; get {SOURCE}")


def _sources(split: str, annotations: str | Path | None, places: Sequence[Path]) -> list[Path]:
    """Return where boxes, and the classes of a flat val, may come from; the first is read."""
    if annotations is not None:
        return [Path(annotations)]
    return find_truth(places) if split == "val" else []


def _train(folder: Path, sources: Sequence[Path]) -> Listing:
    """Return what lies in train/WNID."""
    train = folder / "train"
    lists.require([train], SOURCE)
    wnids = _class_folders(train)
    names = names_under(train, IMAGE_SUFFIXES)
    _refuse([name for name in names if "/" not in name], f"{train}: images outside of any class's folder")
    shared = {wnid: wnid for wnid in wnids}  # one string for all images of a class
    class_of = {f"train/{name}": shared[name.partition("/")[0]] for name in names}
    truth = read_truth(sources[0], {stem_of(name) for name in names}) if sources else {}
    return _with_truth(Listing(wnids, class_of, (folder,), from_disk=True), truth)


def _val(folder: Path, sources: Sequence[Path]) -> Listing:
    """Return what lies in val, by WordNet id or flat; classes of flat images are those of the ``sources``."""
    val = folder / "val"
    lists.require([val], SOURCE)
    names = names_under(val, IMAGE_SUFFIXES)
    if not names:
        raise FileNotFoundError(f"{val} holds no image; unpack {SOURCE} there")
    files = {name.rpartition("/")[2]: name for name in names}
    lists.require_unique([name.rpartition("/")[2] for name in names], val)
    truth = read_truth(sources[0]) if sources else {}
    wnids = _val_classes(val, files, truth, sources)
    nested = any("/" in name for name in names)
    classes = _class_folders(val) if nested else tuple(sorted({*wnids.values()}))
    wnids |= _absent_from_val(files, truth, classes if nested else None)
    classes = tuple(sorted({*classes, *wnids.values()}))
    moved = {f"val/{file}": f"val/{name}" for file, name in files.items() if file != name}
    class_of = {f"val/{file}": wnids[file] for file in sorted(wnids)}
    return _with_truth(Listing(classes, class_of, (folder,), files=moved), truth)


def _val_classes(
    val: Path, files: Mapping[str, str], truth: Mapping[str, Truth], sources: Sequence[Path]
) -> dict[str, str]:
    """Return the WordNet ids of val's files: their folders' names, else what is known of them."""
    wnids: dict[str, str] = {}
    unknown, contradicted = [], []
    for file, name in files.items():
        known = truth[stem_of(file)].wnid if stem_of(file) in truth else None
        wnid = name.rpartition("/")[0] or known
        if wnid is None:
            unknown.append(file)
        elif known not in (None, wnid):
            contradicted.append(name)
        else:
            wnids[file] = wnid
    given = f"in {named(sources)}" if sources else "by XML files, a LOC_val_solution.csv or a list of released code"
    _refuse(unknown, f"{val}: images whose class is given neither by a folder WNID nor {given}", f"get {SOURCE}")
    _refuse(contradicted, f"{val}: images in the folder of another class than {named(sources)} says")
    return wnids


def _absent_from_val(
    files: Mapping[str, str], truth: Mapping[str, Truth], classes: Sequence[str] | None
) -> dict[str, str]:
    """Return the WordNet ids of files that are annotated but absent; of these ``classes`` only, as a tree has them."""
    stems = {stem_of(file) for file in files}
    return {
        f"{stem}.JPEG": known.wnid
        for stem, known in truth.items()
        if stem not in stems and known.wnid is not None and (classes is None or known.wnid in classes)
    }


def _second(folder: Path) -> Listing:
    """Return ImageNetV2, by the `wsol-eval` evaluator's lists where these lie in its folder, else from folders named by label."""
    second = _second_folder(folder)
    if lists.has_split_files(second):
        return _from_split_files(second, folder, "val2")
    names = names_under(second, IMAGE_SUFFIXES)
    class_of = {
        f"val2/{name}": wnid_of(lists.index(name.partition("/")[0], str(second / name)), str(second / name))
        for name in names
    }
    classes = tuple(sorted(set(class_of.values())))
    files = {f"val2/{name}": f"{second.name}/{name}" for name in names}
    return Listing(classes, class_of, (second.parent,), files=files, from_disk=True)


def _second_folder(folder: Path) -> Path:
    candidates = [place / name for place in (folder, folder.parent) for name in _SECOND]
    found = next(filter(Path.is_dir, candidates), None)
    if found is None:
        raise FileNotFoundError(
            f"imagenet has a val2 split only with ImageNetV2: looked for {named(candidates, 9)}; its boxes, and "
            f"where its images are, are in {lists.REFEREE}"
        )
    return found


def _from_split_files(files: Path, folder: Path, split: str) -> Listing:
    """Return a split of the `wsol-eval` evaluator's files, whose ids are `train/WNID/FILE`, `val/FILE` or `val2/LABEL/FILE`."""
    found = lists.read_split_files(files)
    class_of = {name: wnid_of(label, str(files / "class_labels.txt")) for name, label in found.labels.items()}
    moved: dict[str, str] = {}
    if split == "val2":
        second = _second_folder(folder)
        folder, moved = second.parent, _second_files(found.image_ids, second, files / "mapping.txt")
    elif split == "val" and (folder / "val").is_dir():
        moved = {
            f"val/{name.rpartition('/')[2]}": f"val/{name}" for name in names_under(folder / "val", IMAGE_SUFFIXES)
        }
    classes = tuple(sorted(set(class_of.values())))
    return Listing(classes, class_of, (folder,), found.boxes, found.sizes, moved)


def _second_files(ids: Iterable[str], second: Path, mapping: Path) -> dict[str, str]:
    """Return where ImageNetV2's images lie below the folder of ``second``, under the `wsol-eval` evaluator's names or original."""
    present = set(names_under(second, IMAGE_SUFFIXES))
    pairs = [row for _, row in lists.rows(mapping, 2, ",", optional=True)]
    other = dict(pairs) | {old: new for new, old in pairs}
    moved = {}
    for name in ids:
        file = name.partition("/")[2]
        moved[name] = f"{second.name}/{file if file in present else other.get(file, file)}"
    return moved


def _with_truth(listing: Listing, truth: Mapping[str, Truth]) -> Listing:
    """Return the listing with the boxes and sizes that are known of its images."""
    known = {name: truth[stem] for name in listing.class_of if (stem := stem_of(name)) in truth} if truth else {}
    boxes = {name: one.boxes for name, one in known.items()}
    return replace(listing, boxes=boxes, sizes={name: one.size for name, one in known.items() if one.size})


def _with_boxes(listing: Listing, which: str) -> Listing:
    """Return the listing with the boxes that were asked for."""
    if which == "all":
        return listing
    first = {} if which == "none" else {name: boxes[:1] for name, boxes in listing.boxes.items()}
    return replace(listing, boxes=first)


def _class_folders(folder: Path) -> tuple[str, ...]:
    """Return the class folders' names; raise where there are others, or none."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    others = [name for name in names if not WNID.fullmatch(name)]
    _refuse(
        others, f"{folder}: folders that are not called by a WordNet id, as n01440764", "dataset 'folder' takes any"
    )
    if not names:
        archives = [path.name for path in folder.glob("*.tar")]
        remark = f"; unpack each of its {len(archives)} archives into a folder of its own name" if archives else ""
        raise FileNotFoundError(f"{folder} holds no class folder, as n01440764{remark}; expected {SOURCE}")
    return tuple(names)


def _wnids(wanted: Sequence[str] | None, available: Sequence[str], titles: Mapping[str, str]) -> Sequence[str] | None:
    """Return the wanted classes, which are named by WordNet id or in words, by WordNet id."""
    if not wanted or isinstance(wanted, str):
        return wanted
    by_title = {titles.get(wnid, wnid): wnid for wnid in available}
    by_name = by_title | {wnid: wnid for wnid in available}
    unknown = next((name for name in wanted if name not in by_name), None)
    if unknown is not None:
        raise unknown_name("class", unknown, by_title)
    return [by_name[name] for name in wanted]


def _refuse(names: Sequence[str], report: str, remedy: str = "correct it, or unpack the dataset again") -> None:
    """Raise ValueError with the report where there are such names."""
    if names:
        raise ValueError(f"{report} ({len(names)}): {named(names)}; {remedy}")
