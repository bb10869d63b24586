"""``tokenloc serve`` from its start to Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from urllib.request import urlopen

import pytest

from tokenloc.cli import main
from tokenloc.commands.serve import _signals
from tokenloc.server.run import SCRATCH, scratch_folder


@contextmanager
def started(run: Path, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server with temporary files in ``folder``, and its URL."""
    command = [sys.executable, "-m", "tokenloc.cli", "serve", str(run / "checkpoints" / "best.ckpt"), "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    try:
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment)
    finally:
        signal.signal(signal.SIGHUP, inherited)
    with server:
        try:
            printed = server.stderr.readline() if server.stderr else ""
            match = re.match(r"serving run/best: open (http://127\.0\.0\.1:\d+) in a browser; press Ctrl-C", printed)
            assert match, printed
            yield server, match[1]
        finally:
            server.kill()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_the_server_cleanly(run: Path, tmp_path: Path, number: signal.Signals) -> None:
    with started(run, tmp_path) as (server, url):
        with urlopen(url) as page:
            assert b"tokenloc" in page.read()
        server.send_signal(number)
        _, rest = server.communicate(timeout=120)
    assert (server.returncode, rest.strip()) == (0, "server stopped")
    assert not list(tmp_path.glob("tokenloc-*"))


@pytest.mark.slow
def test_a_later_start_removes_what_a_killed_server_left(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "other").mkdir()
    (tmp_path / f"{SCRATCH}link").symlink_to(tmp_path / "other")
    with started(run, tmp_path) as (server, _):
        (left,) = (path for path in tmp_path.glob(f"{SCRATCH}*") if not path.is_symlink())
        (left / "photo.jpg").touch()
        with scratch_folder() as own:
            assert left.exists()  # of a running server
        assert not own.exists()
        server.kill()
        server.wait()
        with scratch_folder():
            assert not left.exists()
    assert (tmp_path / "other").exists()


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        assert _signals() == [signal.SIGTERM, signal.SIGHUP]
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert _signals() == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_port_in_use_is_reported_before_models_are_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "no-such.ckpt", "--port", str(port)]) == 2
    message = rf"tokenloc serve: cannot listen at port {port} of 127.0.0.1.*--port \d+ is free"
    assert re.search(message, capsys.readouterr().err)
    assert main(["serve", "no-such.ckpt", "--port", "0"]) == 2
    assert "no-such.ckpt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("limit", "flag"),
    [("max_bytes", "--max-megabytes"), ("max_pixels", "--max-megapixels"), ("max_queue", "--max-queue")],
)
def test_limits_are_at_least_one(limit: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "x.ckpt", flag, "0"]) == 2
    assert f"{limit} must be at least 1; got 0" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["fastapi", "python_multipart", "uvicorn"])
def test_a_missing_library_names_the_extra(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for loaded in [name for name in sys.modules if name.startswith("tokenloc.server")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["serve", "x.ckpt"]) == 2
    assert f"{module} is not installed; install it with: pip install 'tokenloc[server]'" in capsys.readouterr().err


def test_a_public_address_is_warned_of_and_sigterm_stops_the_server(
    monkeypatch: pytest.MonkeyPatch, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    for host, number in (("0.0.0.0", signal.SIGINT), ("127.0.0.1", signal.SIGTERM)):
        clock = SimpleNamespace(sleep=lambda _, number=number: signal.raise_signal(number))
        monkeypatch.setattr("tokenloc.commands.serve.time", clock)
        assert main(["serve", checkpoint, "--port", "0", "--host", host, "--allowed-hosts", "boxes.lan"]) == 0
        warning = f"warning: everyone who can reach {host} can use this server; there is no password"
        names = "it answers to IP addresses and boxes.lan, "
        printed = capsys.readouterr().err
        assert (warning in printed) == (names in printed) == (host == "0.0.0.0")
