"""Tar shards: what is read from them is what was written into them, and what real readers read."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from tests.runs import tiny_run, tiny_settings
from tests.training.test_nothing_lost import PROCESSES, die
from tokenloc import cli
from tokenloc.data import (
    ImageDataset,
    LabelledImages,
    Preprocessing,
    Sample,
    create_dataset,
    shard_writing,
    train_transform,
    training_loader,
)
from tokenloc.data.base import as_boxes
from tokenloc.data.shard_index import ShardIndex
from tokenloc.data.shard_writing import write_shards
from tokenloc.data.shards import ShardsDataset
from tokenloc.data.stratified import few_shot
from tokenloc.models.checkpoint import read_checkpoint

IDS = ("a.b/0.x.jpg", "ü 🐦/1.v2.JPEG", "../2.png", "3\n.jpg", "caf\udce9/4.jpg", "5.webp", "6.jpg", "7.gif")
BROKEN = 6
SMALL = 4000  # bytes of a shard: a few images


def make_images(folder: Path, split: str = "train") -> ImageDataset:
    """Write eight images of all kinds, number 6 broken; their ids are as odd as may be."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0)
    samples = []
    for number, name in enumerate(IDS):
        path = folder / f"{number}{Path(name).suffix}"
        Image.fromarray(noise.integers(0, 256, (20 + number, 31, 3), np.uint8)).save(path)
        boxes = [[0.5, 1, 30 - number, 19], [2, 3, 4, 5]][: number % 3]
        samples.append(Sample(name, path, number % 2, as_boxes(np.reshape(boxes, (-1, 4)))))
    samples[BROKEN].path.write_bytes(b"no image")
    return ImageDataset(split, ["ant", "bee, or wasp"], samples)


def sharded(root: Path, dataset: ImageDataset, size: int = SMALL, **options: Any) -> ShardsDataset:
    write_shards(dataset, root / dataset.split, size, {"of": "a test"}, **options)
    return ShardsDataset(root, dataset.split)


def same_samples(found: ImageDataset, expected: ImageDataset) -> bool:
    assert (found.classes, found.split, list(found.ids)) == (expected.classes, expected.split, list(expected.ids))
    assert found.labels.tolist() == expected.labels.tolist()
    return all(np.array_equal(one.boxes, other.boxes) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_hold_every_file_as_it_is(workers: int, tmp_path: Path) -> None:
    dataset = make_images(tmp_path / "photos")
    found = sharded(tmp_path / "shards", dataset, workers=workers)
    assert same_samples(found, dataset)
    assert found.has_boxes
    assert len(list((tmp_path / "shards/train").glob("*.tar"))) > 2
    for number, sample in enumerate(dataset):
        assert found.file(number)[1] == sample.path.read_bytes()
        if number != BROKEN:
            assert np.array_equal(np.asarray(found.image(number)), np.asarray(dataset.image(number)))
    assert found[-1].id == found[7].id == found[5:][2].id
    assert np.array_equal(found[-8].boxes, dataset[0].boxes)
    assert np.array_equal(found[-1].boxes, dataset[7].boxes)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
def test_tarfile_and_webdataset_read_the_same(tmp_path: Path) -> None:
    dataset = make_images(tmp_path / "photos")
    sharded(tmp_path / "shards", dataset)
    tars = sorted(map(str, (tmp_path / "shards/train").glob("*.tar")))
    read = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False).decode())
    for number, (sample, expected) in enumerate(zip(read, dataset, strict=True)):
        suffix = expected.path.suffix.lower()[1:]
        assert sample["cls"] == expected.label
        known = {"id": expected.id, "class": dataset.classes[expected.label], "label": expected.label}
        assert sample["json"] == {**known, "boxes": expected.boxes.tolist()}
        assert sample["__key__"] == f"{number:09d}"
        assert suffix in sample
    members: list[bytes] = []
    for path in tars:
        with tarfile.open(path) as tar:
            members += [tar.extractfile(name).read() for name in tar.getnames() if name[-3:] not in ("cls", "son")]
    assert members == [sample.path.read_bytes() for sample in dataset]


def test_a_broken_image_is_named_with_its_shard(tmp_path: Path) -> None:
    found = sharded(tmp_path / "shards", make_images(tmp_path / "photos"))
    with pytest.raises(ValueError, match=r"train/0000\d\.tar: 6\.jpg: not an image in any format"):
        found.image(BROKEN)
    (problem,) = found.check()
    assert str(problem).startswith("6.jpg: ")


def test_batches_are_those_of_the_files_whoever_reads_them(tmp_path: Path) -> None:
    dataset = make_images(tmp_path / "photos")
    found = sharded(tmp_path / "shards", dataset)
    transform = train_transform(Preprocessing((16, 16), (20, 20)))
    for workers in (0, 2):
        batches = [
            list(training_loader(LabelledImages(source, transform, seed=3), 3, workers=workers, seed=4))
            for source in (dataset, found)
        ]
        for (images, labels), (others, their) in zip(*batches, strict=True):
            assert torch.equal(images, others)
            assert torch.equal(labels, their)
    assert same_samples(pickle.loads(pickle.dumps(found)), dataset)


def trained(out: Path, **source: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Train, choose the epoch, calibrate and measure; return the last weights and the metrics."""
    settings = tiny_settings(out)
    last = tiny_run(out, data=replace(settings["data"], per_class=3, **source))
    measured = json.loads((out / "metrics.json").read_text())
    return read_checkpoint(last.with_name("last.ckpt"))["state_dict"], measured


def test_a_run_from_shards_ends_with_the_same_weights_and_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val", "test"):
        words = ["--data.name", "scenes", "--data.options", "{size: 40, length: 24}", "--split", split]
        assert cli.main(["shards", *words, "--out", str(tmp_path / "shards"), "--size", "2e-5"]) == 0
    told = capsys.readouterr().err
    assert f"24 images in {tmp_path}/shards/test" in told
    assert "the masks of scenes are not in the shards" in told
    assert len(list((tmp_path / "shards/train").glob("*.tar"))) > 1
    plain, measured = trained(tmp_path / "plain")
    quick, same = trained(tmp_path / "quick", name="shards", root=tmp_path / "shards", options={})
    assert all(torch.equal(quick[name], value) for name, value in plain.items())
    assert same["threshold"] == measured["threshold"]
    for name in ("top1_cls", "top1_loc", "gt_known", "max_box_acc_v1", "max_box_acc_v2", "box_acc"):
        assert same["metrics"][name] == measured["metrics"][name], name


def test_draws_and_chosen_classes_are_the_same(tmp_path: Path) -> None:
    dataset = make_images(tmp_path / "photos")
    found = sharded(tmp_path / "shards", dataset)
    (tmp_path / "shards/train/._00000.tar").touch()
    assert few_shot(found, 2, draw=5).ids == few_shot(dataset, 2, draw=5).ids
    bees = ShardsDataset(tmp_path / "shards", "train", ["bee, or wasp"])
    kept = [number for number in range(8) if number % 2]
    assert (bees.classes, list(bees.ids)) == (("bee, or wasp",), [IDS[number] for number in kept])
    assert bees.labels.tolist() == [0] * 4
    for place, number in enumerate(kept):
        assert np.array_equal(bees[place].boxes, dataset[number].boxes)
        assert bees.file(place) == found.file(number)
    with pytest.raises(ValueError, match="unknown class 'wasp'"):
        ShardsDataset(tmp_path / "shards", "train", ["wasp"])


def test_generated_images_are_stored_without_loss(tmp_path: Path) -> None:
    scenes = create_dataset("scenes", None, "train", size=40, length=6)
    found = sharded(tmp_path, scenes)
    assert same_samples(found, scenes)
    assert all(np.array_equal(np.asarray(found.image(n)), np.asarray(scenes.image(n))) for n in range(6))
    assert found.file(0)[0] == "png"


def test_smaller_images_have_their_boxes_with_them(tmp_path: Path) -> None:
    dataset = make_images(tmp_path / "photos")
    found = sharded(tmp_path / "shards", dataset, resize=22)
    for number, sample in enumerate(dataset):
        height = 20 + number
        if height <= 22 or number == BROKEN:  # as it is
            assert found.file(number)[1] == sample.path.read_bytes()
            continue
        image = found.image(number)
        width = round(31 * 22 / height)
        assert image.size == (width, 22)
        assert found[number].boxes == pytest.approx(sample.boxes * ([width / 31, 22 / height] * 2))
        whole = np.asarray(dataset.image(number).resize(image.size, Image.Resampling.BILINEAR), np.float64)
        assert np.abs(np.asarray(image) - whole).mean() < 4  # of noise, which JPEG likes least
    assert found.file(7)[0] == "jpg"
    assert found[7].id == "7.gif"


def test_shards_of_shards_are_the_same_to_the_last_byte(tmp_path: Path) -> None:
    found = sharded(tmp_path / "shards", make_images(tmp_path / "photos"))
    again = sharded(tmp_path / "again", found)
    assert same_samples(again, found)
    contents = [[again.file(n)[1], found.file(n)[1]] for n in range(8)]
    assert all(one == other for one, other in contents)


def test_what_is_made_of_the_images_depends_on_the_shard(tmp_path: Path) -> None:
    found = sharded(tmp_path / "shards", make_images(tmp_path / "photos"))
    prints = [found.fingerprint(number) for number in range(8)]
    assert len(set(prints)) == 8
    assert found.subset([3]).fingerprint(0) == prints[3]
    assert found.subset([3]).file(0) == found.file(3)
    os.utime(tmp_path / "shards/train/00000.tar", ns=(1, 1))
    assert found.fingerprint(0) != prints[0]


def dying(folder: Path, after: int, limit: int | None) -> None:
    def items(rows: Any, *_: Any) -> Iterator[Any]:
        yield from islice(rows, after)
        die()

    if limit:
        shard_writing.refuse_unwritable = lambda _: None
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        write_shards(make_images(folder / "photos"), folder / "shards/train", SMALL, {"of": "a test"}, progress=items)
    except OSError as error:
        (folder / "said").write_text(str(error))


def in_a_process(*arguments: Any) -> int | None:
    process = PROCESSES.Process(target=dying, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def test_after_a_kill_the_rest_is_written(tmp_path: Path) -> None:
    assert in_a_process(tmp_path, 5, None) == -9
    folder = tmp_path / "shards/train"
    assert list(folder.glob(".partial-*"))
    with pytest.raises(ValueError, match=r"train is not finished: give the command again"):
        ShardsDataset(tmp_path / "shards", "train")
    before = {path: path.stat().st_mtime_ns for path in folder.glob("0*.tar")}
    assert before
    samples = [replace(one, path=tmp_path / "photos" / one.path.name) for one in make_images(tmp_path / "other")]
    dataset = ImageDataset("train", ["ant", "bee, or wasp"], samples)
    found = sharded(tmp_path / "shards", dataset)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert same_samples(found, dataset)
    assert not list(folder.glob(".partial-*"))
    sharded(tmp_path / "whole", dataset)
    for path in (tmp_path / "whole/train").glob("*.tar"):
        assert (folder / path.name).read_bytes() == path.read_bytes()


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    assert in_a_process(tmp_path, 8, 3000) == 0
    said = (tmp_path / "said").read_text()
    assert "00000.tar could not be written (File too large)" in said
    assert "make room, then give the same command again" in said
    assert not list((tmp_path / "shards/train").glob("*.tar"))


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    dataset = make_images(tmp_path / "photos")
    sharded(tmp_path / "shards", dataset)
    with pytest.raises(FileExistsError, match="train holds shards already; give another --out, or remove it"):
        sharded(tmp_path / "shards", dataset)
    describe(tmp_path / "shards", shards=None)
    with pytest.raises(ValueError, match="train was begun with other of; go on with what it began with"):
        write_shards(dataset, tmp_path / "shards/train", SMALL, {"of": "another"})
    (tmp_path / "photos/train").mkdir()
    (tmp_path / "photos/train/x").touch()
    with pytest.raises(FileExistsError, match="photos/train holds files that are no shards"):
        sharded(tmp_path / "photos", dataset)


def describe(root: Path, **changes: Any) -> None:
    path = root / "train/shards.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(("flag", "value"), [("--size", "0"), ("--resize", "0")])
def test_sizes_that_cannot_be(flag: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["shards", "--data.name", "scenes", "--out", str(tmp_path), flag, value]) == 2
    assert f"{flag} must be" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_ends_the_writing(tmp_path: Path) -> None:
    dataset = make_images(tmp_path / "photos")
    dataset[3].path.unlink()
    for workers in (0, 1):
        with pytest.raises(ValueError, match=r"^\S+3\.jpg cannot be read \(.*No such file.*\); mend or remove it$"):
            sharded(tmp_path / "shards", dataset, workers=workers)
    dataset[3].path.write_bytes(b"")  # what was written before stays
    assert len(sharded(tmp_path / "shards", dataset)) == 8


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def change(path: Path, **columns: Any) -> None:
    with np.load(path) as stored:
        content = dict(stored)
    np.savez(path, **{**content, **columns})


def pickled(path: Path) -> None:
    np.savez(path, ids=np.array([{"hostile": print}], object), allow_pickle=True)


def ones(path: Path) -> np.ndarray:
    with np.load(path) as stored:
        return np.ones_like(stored["sizes"])


BREAKS: list[tuple[str, Callable[[Path], Any], str]] = [
    ("00001.tar", cut, r"00001\.tar has [\d,]+ bytes, [\d,]+ were written; copy it again"),
    ("00001.tar", Path.unlink, r"00001\.tar is missing; copy it again"),
    ("00000.npz", Path.unlink, r"00000\.npz is missing; copy it again"),
    ("00000.npz", cut, r"00000\.npz is damaged \(.*\); copy it again, or write the shards anew"),
    ("00000.npz", pickled, r"00000\.npz is damaged \(Object arrays cannot be loaded"),
    ("00000.npz", lambda path: change(path, labels=np.arange(99)), r"damaged \(its columns are not of one length"),
    ("00000.npz", lambda path: change(path, labels=np.array([0.5])), r"damaged \(Cannot cast array data"),
    ("00000.npz", lambda path: change(path, boxes=np.zeros((99, 4))), r"damaged \(its boxes are not as many"),
    ("00000.npz", lambda path: change(path, tar_bytes=np.int64(5)), r"damaged \(it names bytes that are not in"),
    ("00000.npz", lambda path: change(path, sizes=-ones(path)), r"damaged \(it names bytes that are not in"),
    ("00000.npz", lambda path: change(path, box_counts=-ones(path)), r"damaged \(its boxes are not as many"),
    ("shards.json", cut, r"shards\.json is damaged \(.*\); copy it again"),
    ("shards.json", lambda path: path.write_text("[]"), r"shards\.json is damaged"),
    ("shards.json", lambda path: path.write_text('{"format": 9}'), r"damaged \(another format than 1"),
    ("shards.json", lambda path: describe(path.parents[1], shards=1), r"hold \d images, shards\.json says 8"),
    ("shards.json", lambda path: describe(path.parents[1], shards=99), r"0000\d\.tar is missing"),
    ("shards.json", lambda path: describe(path.parents[1], classes=["ant"]), r"class number 1, but .*names 1 class"),
    ("shards.json", lambda path: describe(path.parents[1], classes=["ant", "ant"]), r"no two alike; correct 'ant'"),
    ("shards.json", lambda path: describe(path.parents[1], images="8"), r"images must be a number"),
]


@pytest.mark.parametrize(("name", "break_", "message"), BREAKS, ids=range(len(BREAKS)))
def test_what_is_broken_is_named(name: str, break_: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    sharded(tmp_path, make_images(tmp_path / "photos"))
    path = tmp_path / "train" / name
    break_(path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        ShardsDataset(tmp_path, "train")


def test_a_shard_that_is_cut_short_meanwhile_is_an_unreadable_image(tmp_path: Path) -> None:
    found = sharded(tmp_path, make_images(tmp_path / "photos"))
    tar = tmp_path / "train/00000.tar"
    tar.write_bytes(tar.read_bytes()[:600])
    with pytest.raises(ValueError, match=r"00000\.tar is cut short; copy it again"):
        found.image(0)


def test_splits_with_other_classes_are_refused(tmp_path: Path) -> None:
    train = make_images(tmp_path / "photos")
    sharded(tmp_path, train)
    others = make_images(tmp_path / "more", "val")
    others.classes = ("ant", "cat")
    with pytest.raises(
        ValueError, match=r"val/shards\.json and .*train/shards\.json have other classes.*bee, or wasp, cat\): write"
    ):
        sharded(tmp_path, others)
    with pytest.raises(ValueError, match=r"train/shards\.json and .*val/shards\.json have other classes"):
        ShardsDataset(tmp_path, "train")


def test_an_index_survives_the_disk(tmp_path: Path) -> None:
    tar = tmp_path / "x.tar"
    tar.write_bytes(bytes(50))
    columns = [np.array(values) for values in ([1, 0], [0, 10], [10, 40], [0, 2])]
    index = ShardIndex(["", "caf\udce9\n"], *columns, np.arange(8.0).reshape(2, 4), 50)
    index.save(tmp_path / "x.npz")
    found = ShardIndex.load(tmp_path / "x.npz", tar)
    assert found.ids == index.ids
    for name in ("labels", "offsets", "sizes", "box_counts", "boxes"):
        assert np.array_equal(getattr(found, name), getattr(index, name))


def foreign(path: Path, members: dict[str, bytes | tarfile.TarInfo]) -> Path:
    """Write a tar as somebody else does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path


def png(shade: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (5, 4), (shade, 0, 0)).save(content, "PNG")
    return content.getvalue()


@pytest.mark.parametrize("place", ["val/anything-{}.tar", "imagenet1k-validation-{}.tar"])
def test_tars_that_webdataset_writes_are_read(place: str, tmp_path: Path) -> None:
    for number in range(2):
        path = tmp_path / place.format(number)
        path.parent.mkdir(exist_ok=True)
        with webdataset.TarWriter(str(path)) as writer:
            for row in range(3):
                known = {"__key__": f"deep/er.dir/{row}", "png": png(10 * number + row), "cls": row, "json": {"a": 1}}
                writer.write(known)
    (tmp_path / place.format("x")).with_name("._val.tar").touch()  # as Macs leave behind
    foreign(tmp_path / "a-train-0.tar", {"x.png": png(0), "x.cls": b"9"})  # of another split
    found = create_dataset("shards", tmp_path, "val")
    tar = Path(place.format(1)).stem
    assert found.ids[3] == f"{tar}/deep/er.dir/0.png"
    assert found.labels.tolist() == [0, 1, 2] * 2
    assert found.classes == ("0", "1", "2")
    assert not found.has_boxes
    assert [found.image(index).getpixel((0, 0))[0] for index in range(6)] == [0, 1, 2, 10, 11, 12]


def test_names_of_classes_are_the_lines_of_a_file(tmp_path: Path) -> None:
    foreign(tmp_path / "train/a.tar", {"x.jpg": b"", "x.cls": b"1\n", "y.cls": b"0", "y.seg.png": png(1)})
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\n")
    found = ShardsDataset(tmp_path, "train")
    assert (found.classes, found.labels.tolist()) == (("ant", "bee", "cat"), [1, 0])
    assert ShardsDataset(tmp_path, "train", ["bee"]).ids == ["a/x.jpg"]
    (tmp_path / "classes.txt").write_text("crane\n\ncrane\n\n")
    with pytest.raises(ValueError, match=r"classes\.txt must name each class, and no two alike; correct '', 'crane'"):
        ShardsDataset(tmp_path, "train")
    (tmp_path / "classes.txt").write_text("ant\n")
    with pytest.raises(ValueError, match=r"a\.tar: a/x\.jpg has class number 1, but .*classes\.txt names 1 class"):
        ShardsDataset(tmp_path, "train")


def link() -> tarfile.TarInfo:
    info = tarfile.TarInfo("x.jpg")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"../x.jpg": b"", "../x.cls": b"0"}, r"member '\.\./x\.jpg' is no plain file in the tar, and is not read"),
        ({"/x.jpg": b"", "/x.cls": b"0"}, r"member '/x\.jpg' is no plain file"),
        ({"a/../../x.jpg": b""}, r"member 'a/\.\./\.\./x\.jpg' is no plain file"),
        ({"x.jpg": link(), "x.cls": b"0"}, r"member 'x\.jpg' is no plain file"),
        ({"x.jpg": b""}, r"x needs one image and its class, x\.cls; there is x\.jpg"),
        ({"x.jpg": b"", "y.cls": b"0"}, r"x needs one image and its class"),
        ({"x.jpg": b"", "x.png": b"", "x.cls": b"0"}, r"there is x\.jpg, x\.png, x\.cls"),
        ({"x.jpg": b"", "x.cls": b"cat"}, r"x\.cls must hold the number of a class, from 0; it holds b'cat'"),
        ({"x.jpg": b"", "x.cls": b"-1"}, r"it holds b'-1'"),
        ({"x.jpg": b"", "x.cls": b"9" * 12}, r"it holds b'999999999999'"),
        ({"x.txt": b""}, r"a\.tar holds no image; expected members KEY\.jpg and KEY\.cls"),
        ({}, r"a\.tar holds no image"),
    ],
)
def test_tars_that_are_not_as_expected(members: dict[str, Any], message: str, tmp_path: Path) -> None:
    foreign(tmp_path / "train/a.tar", members)
    with pytest.raises(ValueError, match=message):
        ShardsDataset(tmp_path, "train")
    assert [path.name for path in tmp_path.rglob("*")] == ["train", "a.tar"]


def test_tars_that_are_none(tmp_path: Path) -> None:
    tar = foreign(tmp_path / "train/a.tar", {"x.cls": b"0", "x.jpg": bytes(99999)})
    whole = tar.read_bytes()
    for content in (whole[:50000], b"", b"no tar at all" * 100):
        tar.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.tar is no tar, compressed, or cut short \(.*\); copy it again"):
            ShardsDataset(tmp_path, "train")


def test_a_folder_without_tars(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no shard of split val: expected a folder of `tokenloc shards`"):
        ShardsDataset(tmp_path, "val")
    (tmp_path / "val").mkdir()
    (tmp_path / "val/a.tar.gz").touch()
    with pytest.raises(FileNotFoundError, match=r"; a\.tar\.gz must be unpacked to \.tar"):
        ShardsDataset(tmp_path, "val")
