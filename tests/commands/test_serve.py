"""``tokenloc serve`` from its start to Ctrl-C."""

from __future__ import annotations

import importlib
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


def test_it_serves_and_ends_cleanly_with_ctrl_c(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    command = [sys.executable, "-m", "tokenloc.cli", "serve", str(run / "checkpoints" / "best.ckpt"), "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as server:
        try:
            said = ""
            while "Ctrl-C ends" not in said:
                line = server.stderr.readline() if server.stderr else ""
                assert line, said
                said += line
            found = re.search(r"tscam · run/best: open (http://127\.0\.0\.1:\d+/) in a browser", said)
            assert found, said
            with urlopen(found[1]) as page:
                assert b"tokenloc" in page.read()
            assert [path.name[:15] for path in tmp_path.iterdir() if path.is_dir()] == ["tokenloc-serve-"]
            server.send_signal(signal.SIGINT)
            _, rest = server.communicate(timeout=120)
        finally:
            server.kill()
    assert server.returncode == 0
    assert rest.strip() == "ended; the uploaded images are removed"
    assert not list(tmp_path.glob("tokenloc-serve-*"))
    assert not list(tmp_path.glob("gradio*"))


def test_a_port_in_use_is_told_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gradio")
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        assert main(["serve", "no-such.ckpt", "--port", str(port)]) == 2
    assert re.search(
        rf"tokenloc serve: port {port} of 127.0.0.1 cannot be used.*--port \d+ is free", capsys.readouterr().err
    )


def test_a_checkpoint_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gradio")
    assert main(["serve", "no-such.ckpt", "--port", "0"]) == 2
    assert "no-such.ckpt" in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["max-megabytes", "max-megapixels", "max-queue"])
def test_limits_that_make_no_sense(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "x.ckpt", f"--{limit}", "0"]) == 2
    assert "must be at least 1; got 0" in capsys.readouterr().err


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("gradio")
    assert main(["serve", "x.ckpt"]) == 2
    assert "gradio is not installed; install it with: pip install 'tokenloc[web]'" in capsys.readouterr().err


def test_others_are_warned_of_and_a_killed_server_ends_cleanly(
    monkeypatch: pytest.MonkeyPatch, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gradio")
    monkeypatch.setattr(
        "tokenloc.commands.serve.time", SimpleNamespace(sleep=lambda _: signal.raise_signal(signal.SIGINT))
    )
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    assert main(["serve", checkpoint, "--port", "0", "--host", "0.0.0.0"]) == 0
    said = capsys.readouterr().err
    assert "warning: everyone who reaches 0.0.0.0 can use this page" in said
    monkeypatch.setattr(
        "tokenloc.commands.serve.time", SimpleNamespace(sleep=lambda _: signal.raise_signal(signal.SIGTERM))
    )
    assert main(["serve", checkpoint, "--port", "0"]) == 0
    assert "warning" not in capsys.readouterr().err
