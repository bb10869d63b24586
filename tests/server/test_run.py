"""Models, the port, and silence towards the network."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.server.conftest import LIMITS
from tokenloc.inference import Localizer
from tokenloc.server.app import create_app
from tokenloc.server.run import listen, load_models, serving


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        yield held.getsockname()[1]


def test_a_port_in_use_is_reported_with_the_next_free_one(taken: int) -> None:
    message = rf"cannot listen at port {taken} of 127.0.0.1 \(.*in use\); --port (\d+) is free"
    with pytest.raises(OSError, match=message) as error:
        listen("127.0.0.1", taken)
    free = int(str(error.value).split("--port ")[1].split()[0])
    assert free > taken
    with listen("127.0.0.1", free) as listener, pytest.raises(OSError, match="cannot listen"):
        listen("127.0.0.1", listener.getsockname()[1])


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
    assert list(load_models([best, last, copy], "cpu")) == ["run/best", "run/last", f"run/best ({copy})"]
    with pytest.raises(ValueError, match="given twice: .*best.ckpt, .*best.ckpt, .*best.ckpt"):
        load_models([best, best, best], "cpu")


def test_the_server_contacts_no_other_machine_and_writes_nothing(
    models: dict[str, Localizer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not even if environment variables of FastAPI ask for telemetry."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://telemetry.example")
    contacted: list[object] = []
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def connected(self: socket.socket, address: object) -> None:
        contacted.append(address[0] if isinstance(address, tuple) else address)
        connect(self, address)

    def looked_up(host: object, *others: object, **options: object) -> object:
        contacted.append(host)
        return look_up(host, *others, **options)

    monkeypatch.setattr(socket.socket, "connect", connected)
    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    with serving(create_app(models, LIMITS), listen("127.0.0.1", 0)) as url:
        assert url.startswith("http://127.0.0.1:")
        with urlopen(f"{url}/health") as answer:
            assert answer.status == 200
    assert set(map(str, contacted)) <= {"127.0.0.1", "localhost"}
    assert list(tmp_path.iterdir()) == []
