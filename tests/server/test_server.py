"""The server's port, its folder, and its silence towards the network."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.conftest import GRADIO_WARNS, LIMITS
from tokenloc.inference import Localizer
from tokenloc.server import Models, free_port, private_folder, serving
from tokenloc.server.server import remove_older

pytestmark = GRADIO_WARNS


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        yield held.getsockname()[1]


def test_a_port_in_use_is_told_with_the_next_free_one(taken: int) -> None:
    with pytest.raises(
        OSError, match=rf"port {taken} of 127.0.0.1 cannot be used \(.*in use\); --port (\d+) is free"
    ) as told:
        free_port("127.0.0.1", taken)
    free = int(str(told.value).split("--port ")[1].split()[0])
    assert free > taken
    assert free_port("127.0.0.1", free) == free


def test_any_port() -> None:
    assert 0 < free_port("127.0.0.1", 0) < 65536


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("no.such.host.invalid", 7860, "host 'no.such.host.invalid' is not known .*; try 127.0.0.1"),
        ("192.0.2.1", 7860, "port 7860 of 192.0.2.1 cannot be used"),
        ("127.0.0.1", 70000, "port 70000 must lie in 0 … 65535"),
        ("127.0.0.1", -1, "port -1 must lie in 0 … 65535"),
    ],
)
def test_what_cannot_be_listened_at(host: str, port: int, message: str) -> None:
    with pytest.raises(OSError, match=message):
        free_port(host, port)


def test_the_folder_is_private_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", "before")
    with private_folder() as folder:
        assert os.environ["GRADIO_TEMP_DIR"] == str(folder)
        assert folder.stat().st_mode & 0o077 == 0
        (folder / "upload").write_text("x")
    assert not folder.exists()
    assert os.environ["GRADIO_TEMP_DIR"] == "before"


def test_only_what_is_old_is_swept(tmp_path: Path) -> None:
    for name in ("a/old.jpg", "a/new.jpg", "b/old.jpg", "old"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
        if path.stem == "old":
            os.utime(path, (1000, 1000))
    os.utime(tmp_path / "a", (1000, 1000))
    (tmp_path / "dangling").symlink_to("/nowhere")
    remove_older(tmp_path, time.time() - 3600)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == {"a", "a/new.jpg", "b", "dangling"}  # a folder that lost its last file goes when it is old itself
    remove_older(tmp_path, time.time() + 1)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_sought_on_the_network_and_nothing_stays(
    localizer: Localizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever Gradio's environment variables ask for."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "GRADIO_SHARE",
        "GRADIO_ANALYTICS_ENABLED",
        "GRADIO_MCP_SERVER",
        "GRADIO_SSR_MODE",
        "GRADIO_RUN_HISTORY",
    ):
        monkeypatch.setenv(name, "True")
    monkeypatch.setenv("GRADIO_NUM_WORKERS", "2")
    sought: list[object] = []
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def connected(self: socket.socket, address: object) -> None:
        sought.append(address[0] if isinstance(address, tuple) else address)
        connect(self, address)

    def looked_up(host: object, *others: object, **options: object) -> object:
        sought.append(host)
        return look_up(host, *others, **options)

    monkeypatch.setattr(socket.socket, "connect", connected)
    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    with private_folder() as folder:
        with serving(Models({"tiny": localizer}, 1000), folder, "127.0.0.1", 0, LIMITS) as address:
            assert address.startswith("http://127.0.0.1:")
        assert {str(host) for host in sought} <= {"127.0.0.1", "localhost"}
        assert sought
    assert list(tmp_path.iterdir()) == []
