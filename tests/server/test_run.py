"""Models, addresses, and silence towards the network."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.server.conftest import LIMITS
from tokenloc.inference import Localizer
from tokenloc.server.app import create_app
from tokenloc.server.run import listen, load_models, serving


def test_a_port_in_use_is_reported_with_the_next_free_one() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        message = rf"cannot listen at port {port} of 127.0.0.1 \(.*in use\); --port (\d+) is free"
        with pytest.raises(OSError, match=message) as error:
            listen("127.0.0.1", port)
    free = int(str(error.value).split("--port ")[1].split()[0])
    assert free > port
    listen("127.0.0.1", free).close()


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("no.such.host.invalid", 7860, "unknown host 'no.such.host.invalid' .*; try 127.0.0.1"),
        ("192.0.2.1", 7860, "cannot listen at port 7860 of 192.0.2.1"),
        ("127.0.0.1", 70000, "port must be in 0 … 65535; got 70000"),
        ("127.0.0.1", -1, "port must be in 0 … 65535; got -1"),
    ],
)
def test_invalid_addresses_are_reported(host: str, port: int, message: str) -> None:
    with pytest.raises(OSError, match=message):
        listen(host, port)


def test_models_are_named_by_their_runs(run: Path, tmp_path: Path) -> None:
    best, last = run / "checkpoints" / "best.ckpt", run / "checkpoints" / "last.ckpt"
    copy = tmp_path / "run" / "checkpoints" / "best.ckpt"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(best.read_bytes())
    assert list(load_models([best, last, copy], "cpu")) == ["run/best", "run/last", "run/best-2"]
    with pytest.raises(ValueError, match="given twice: .*best.ckpt, .*best.ckpt, .*best.ckpt"):
        load_models([best, best, best], "cpu")


def test_the_server_contacts_no_other_machine_and_writes_nothing(
    models: dict[str, Localizer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not even if the environment variables of FastAPI's telemetry ask for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://telemetry.example")
    contacted: set[str] = set()
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def record_connect(self: socket.socket, address: object) -> None:
        contacted.add(str(address[0] if isinstance(address, tuple) else address))
        connect(self, address)

    def record_look_up(host: object, *others: object, **options: object) -> object:
        contacted.add(str(host))
        return look_up(host, *others, **options)

    monkeypatch.setattr(socket.socket, "connect", record_connect)
    monkeypatch.setattr(socket, "getaddrinfo", record_look_up)
    with serving(create_app(models, LIMITS), listen("127.0.0.1", 0)) as url, urlopen(f"{url}/health") as answer:
        assert answer.status == 200
    assert contacted == {"127.0.0.1"}
    assert list(tmp_path.iterdir()) == []
