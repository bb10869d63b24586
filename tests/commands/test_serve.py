"""``tokenloc serve`` from its start to Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.request import urlopen

import pytest

from tokenloc.cli import main


@pytest.mark.slow
def test_ctrl_c_stops_the_server_cleanly(run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tokenloc.cli", "serve", str(run / "checkpoints" / "best.ckpt"), "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as server:
        try:
            printed = server.stderr.readline() if server.stderr else ""
            match = re.match(r"serving run/best: open (http://127\.0\.0\.1:\d+) in a browser; press Ctrl-C", printed)
            assert match, printed
            with urlopen(match[1]) as page:
                assert b"tokenloc" in page.read()
            server.send_signal(signal.SIGINT)
            _, rest = server.communicate(timeout=120)
        finally:
            server.kill()
    assert (server.returncode, rest.strip()) == (0, "server stopped")
    assert not list(tmp_path.glob("tokenloc-*"))


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
        assert main(["serve", checkpoint, "--port", "0", "--host", host]) == 0
        warning = f"warning: everyone who can reach {host} can use this server; there is no password"
        assert (warning in capsys.readouterr().err) == (host == "0.0.0.0")
