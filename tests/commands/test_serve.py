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


def test_ctrl_c_stops_the_server_cleanly(run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tokenloc.cli", "serve", str(run / "checkpoints" / "best.ckpt"), "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as server:
        try:
            printed = ""
            while "Ctrl-C" not in printed:
                line = server.stderr.readline() if server.stderr else ""
                assert line, printed
                printed += line
            match = re.search(r"serving run/best: open (http://127\.0\.0\.1:\d+) in a browser", printed)
            assert match, printed
            with urlopen(match[1]) as page:
                assert b"tokenloc" in page.read()
            server.send_signal(signal.SIGINT)
            _, rest = server.communicate(timeout=120)
        finally:
            server.kill()
    assert server.returncode == 0
    assert rest.strip() == "server stopped"
    assert not list(tmp_path.glob("tokenloc-*"))


def test_a_port_in_use_is_reported_before_models_are_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        assert main(["serve", "no-such.ckpt", "--port", str(port)]) == 2
    message = rf"tokenloc serve: cannot listen at port {port} of 127.0.0.1.*--port \d+ is free"
    assert re.search(message, capsys.readouterr().err)


def test_a_missing_checkpoint_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "no-such.ckpt", "--port", "0"]) == 2
    assert "no-such.ckpt" in capsys.readouterr().err


def test_a_limit_of_zero_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "x.ckpt", "--max-queue", "0"]) == 2
    assert "max_queue must be at least 1; got 0" in capsys.readouterr().err


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
    def stop_by(number: signal.Signals) -> None:
        clock = SimpleNamespace(sleep=lambda _: signal.raise_signal(number))
        monkeypatch.setattr("tokenloc.commands.serve.time", clock)

    checkpoint = str(run / "checkpoints" / "last.ckpt")
    stop_by(signal.SIGINT)
    assert main(["serve", checkpoint, "--port", "0", "--host", "0.0.0.0"]) == 0
    assert "warning: everyone who can reach 0.0.0.0 can use this server" in capsys.readouterr().err
    stop_by(signal.SIGTERM)
    assert main(["serve", checkpoint, "--port", "0"]) == 0
    assert "warning" not in capsys.readouterr().err
