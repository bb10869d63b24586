"""Atomic writes and unique names."""

from __future__ import annotations

import errno
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from tests.runs import in_process
from tokenloc._files import (
    UniqueNames,
    atomic_files,
    atomic_folder,
    atomic_write,
    durable_write,
    free_folder,
    open_regular,
    read_text,
    refuse_unwritable,
    remove_partial_files,
    require_inside,
    write_text,
)


def test_a_folder_appears_complete_and_replaces_the_old_one(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "a/b", replace=True) as folder:
            (folder / content).write_text(content)
            assert not (tmp_path / "a/b" / content).exists()
        assert [path.name for path in (tmp_path / "a/b").iterdir()] == [content]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_an_existing_folder_is_only_replaced_on_request(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with pytest.raises(FileExistsError, match="old already exists; remove it"), atomic_folder(tmp_path / "old"):
        raise AssertionError("nothing is to be written")


def half_write(path: Path) -> None:
    with atomic_folder(path, replace=True) as folder:
        (folder / "new").touch()
        raise OSError("full")


def test_after_an_error_the_old_folder_remains(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b/old").touch()
    with pytest.raises(OSError, match="full"):
        half_write(tmp_path / "b")
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["b", "b/old"]


def write_files(folder: Path, names: str, content: str) -> None:
    with atomic_files(folder, "last.txt", ["c*.txt", "sub/d.txt"]) as new:
        for name in names.split():
            write_text(new / name, content)


def texts(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_files_of_two_blocks_never_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.txt").write_text("another's")
    write_files(tmp_path, "z.txt last.txt sub/d.txt c1.txt", "old")
    before = dict.fromkeys(("z.txt", "last.txt", "sub/d.txt", "c1.txt"), "old") | {"other.txt": "another's"}
    assert texts(tmp_path) == before
    with pytest.raises(FileExistsError):  # a file in a file
        write_files(tmp_path, "z.txt last.txt z.txt/x", "failed")
    assert texts(tmp_path) == before
    replace, moved = Path.replace, list[str]()

    def stopping(self: Path, target: Path) -> Path:
        moved.append(target.name)
        if len(moved) == 7:  # after four writes and two moves of files
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stopping)
        with pytest.raises(KeyboardInterrupt):
            write_files(tmp_path, "last.txt sub/d.txt a.txt z.txt", "stopped")
    assert moved[4:] == ["a.txt", "d.txt", "z.txt"]
    assert "last.txt" not in texts(tmp_path)
    write_files(tmp_path, "z.txt last.txt", "new")
    assert texts(tmp_path) == {"z.txt": "new", "last.txt": "new", "a.txt": "stopped", "other.txt": "another's"}


def end_with_a_partial_file(path: Path) -> None:
    with atomic_write(path):
        os._exit(0)


def test_partial_files_of_ended_processes_are_removed(tmp_path: Path) -> None:
    assert in_process(end_with_a_partial_file, tmp_path / "a.txt") == 0
    (tmp_path / ".partial-x.txt").write_text("of another machine or version")
    with atomic_write(tmp_path / "b.txt") as own:
        assert len(list(tmp_path.iterdir())) == 3
        remove_partial_files(tmp_path, locked=False)
        assert set(tmp_path.iterdir()) == {own, tmp_path / ".partial-x.txt"}
    remove_partial_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["b.txt"]


def test_permissions_are_the_default_ones(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    with atomic_folder(tmp_path / "whole"):
        pass
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "plain.safetensors").touch()
    with atomic_write(tmp_path / "whole.safetensors") as temporary:
        save_file({}, temporary)  # replaces the file by a private one
    assert (tmp_path / "whole.safetensors").stat().st_mode == (tmp_path / "plain.safetensors").stat().st_mode


def test_names_are_unique() -> None:
    expected = {
        ("x", "x-2", "x", "X", "x"): ["x.jpg", "x-2.jpg", "x-3.jpg", "X-4.jpg", "x-5.jpg"],
        ("x-2", "x", "X"): ["x-2.jpg", "x.jpg", "X-3.jpg"],
    }
    for stems, taken in expected.items():
        names = UniqueNames(".jpg")
        assert [names.take(stem) for stem in stems] == taken


@pytest.mark.parametrize("stem", ["x" * 300, "ü" * 200, "🐦" * 100, "caf\udce9" * 90, "a/" + "y" * 251])
def test_long_names_are_cut_to_the_limit_of_file_systems(stem: str) -> None:
    names = UniqueNames(".jpg")
    taken = [names.take(stem) for _ in range(3)]
    assert len(set(taken)) == 3
    for name in taken:
        last = name.rpartition("/")[2]
        assert 190 < len(last.encode()) <= 255
        assert last.endswith(".jpg")
    assert names.take("z" * 251) == "z" * 251 + ".jpg"


def test_concurrent_writes_do_not_change_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: write_text(tmp_path / f"{number}", "x"), range(400)))
        assert os.umask(0o027) == 0o027
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}
    finally:
        os.umask(before)


def test_a_writable_folder_is_left_unchanged(tmp_path: Path) -> None:
    refuse_unwritable(tmp_path / "new" / "deeper")
    refuse_unwritable(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    for name, reason in (("file/new", "Not a directory"), ("lost", "No such file or directory")):
        with pytest.raises(OSError, match=rf"cannot write to .*{name} \({reason}\); choose another folder"):
            refuse_unwritable(tmp_path / name)


def fail_within(path: Path, error: Exception) -> None:
    with durable_write(path, "repair it") as file:
        file.write(b"half")
        raise error


def test_a_durable_write_is_complete_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new/file"
    with durable_write(path, "repair it") as file:
        file.write(b"first")
    assert path.read_bytes() == b"first"
    message = rf"cannot write {path} \(No space left on device\); it is unchanged; repair it"
    with pytest.raises(OSError, match=message):
        fail_within(path, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(RuntimeError, match="no disk's"):
        fail_within(path, RuntimeError("no disk's"))
    assert [each.read_bytes() for each in path.parent.iterdir()] == [b"first"]


@pytest.mark.parametrize("suffix", [".jpg", ".xml", ".json", ".yaml", ".npz", ".ckpt", ".tar"])
def test_only_regular_files_are_opened(tmp_path: Path, suffix: str) -> None:
    pipe, bound, link, missing = (tmp_path / f"{name}{suffix}" for name in ("pipe", "socket", "link", "missing"))
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(bound))
    for path in (pipe, bound, link, Path("/dev/zero")):
        with pytest.raises(ValueError, match=f"{path}: a pipe, socket or device, not a regular file"):
            open_regular(path)
    with pytest.raises(IsADirectoryError, match="a folder, not a file"):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(missing)
    pipe.unlink()
    write_text(pipe, "naïve")
    assert read_text(link) == "naïve"


def test_a_file_that_becomes_a_pipe_while_it_is_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jpg"
    path.touch()
    opened = os.open

    def replacing(name: Path, flags: int) -> int:
        name.unlink()
        os.mkfifo(name)
        return opened(name, flags)

    monkeypatch.setattr(os, "open", replacing)
    with pytest.raises(ValueError, match=r"a\.jpg: a pipe"):
        open_regular(path)


@pytest.mark.parametrize("name", ["../a", "a/../../b", "..", "/etc/passwd", "\\\\host\\a", "a\\..\\b"])
def test_names_that_lead_out_of_a_folder_are_refused(name: str) -> None:
    require_inside(["a..b", "a/b.jpg", "..a/b..", "a: b", "..."], "list")
    with pytest.raises(ValueError, match=r"list names .* which is outside its folder"):
        require_inside(["a.jpg", name], "list")


@pytest.mark.parametrize("write", [atomic_write, atomic_folder])
def test_an_error_of_the_disk_names_the_file(tmp_path: Path, write: Any) -> None:
    with (
        pytest.raises(OSError, match=rf"cannot write {tmp_path / 'a'} \(No space left on device\)") as raised,
        write(tmp_path / "a"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_free_folders_count_up(tmp_path: Path) -> None:
    first, second = tmp_path / "found", tmp_path / "found-2"
    assert free_folder(first, lambda _: True) == first
    first.mkdir()
    assert free_folder(first, lambda _: False) == second
    assert free_folder(first, lambda folder: folder == first) == first
    second.mkdir()
    assert free_folder(first, lambda _: True) == second
