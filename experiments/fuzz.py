"""Hostile input: thousands of generated and mutated recipes, files, images and requests; run it before a release.

    python experiments/fuzz.py [--minutes 10] [--seed 0] [--sources recipes files images requests] [--only N]

Each input goes to the command line, to a Localizer or to a running server, in a worker process that is replaced after a
crash or hang. Allowed are a result, an exit status of 0, 1 or 2, a ValueError or OSError of a Localizer, and an HTTP
status below 500 or 503. Counted are tracebacks, which include every other answer and local paths in an answer, crashes,
hangs (no result within --timeout seconds), and files that only executed code creates.
Prints a table, and for each failure the arguments that repeat it. Exits with 1 if there is one. Works on Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import _hostile_requests

MEMORY = 4_000_000_000
SOURCES = ("recipes", "files", "images", "requests")
TINY = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
MARKERS = ("*executed*", "*/*executed*", "*/a-value-was-called")  # files that only executed code creates
FAILURES = ("traceback", "crash", "hang", "executed")


@dataclass(frozen=True)
class Case:
    number: int
    source: str
    name: str
    content: Any  # arguments of the command line, or the bytes of an image or a request


@dataclass
class Count:
    cases: int = 0
    failures: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FAILURES, 0))
    peak: int = 0  # bytes


# ---- input


def all_cases(seed: int, sources: list[str], folder: Path) -> Iterator[Case]:
    """Yield the cases of all sources in turn; a number has the same case for the same seed and sources."""
    running = {source: _cases(source, random.Random(f"{seed} {source}"), folder / source) for source in sources}
    number = 0
    while running:
        for source, cases in list(running.items()):
            if (found := next(cases, None)) is None:
                del running[source]
                continue
            yield Case(number, source, *found)
            number += 1


def _cases(source: str, rng: random.Random, folder: Path) -> Iterator[tuple[str, Any]]:
    folder.mkdir(parents=True)
    if source == "images":
        return _hostile_requests.images(rng)
    if source == "requests":
        return _hostile_requests.requests(rng)
    module = import_module({"recipes": "_hostile_text", "files": "_hostile_files"}[source])
    found: Iterator[tuple[str, Any]] = module.cases(rng, folder)
    return found


# ---- the worker process


class Subject:
    """What the worker feeds: the command line, a Localizer and a server with one tiny model."""

    def __init__(self, checkpoint: Path, url: str) -> None:
        from tokenloc import Localizer

        self.localizer = Localizer.from_checkpoint(checkpoint, "cpu")
        self.address = ("127.0.0.1", int(url.rpartition(":")[2]))
        self.private = [str(checkpoint.parent), tempfile.gettempdir() + "/"]
        image = b"P6 2 2 255 " + bytes(12)
        body = b""
        for name, value in (('image"; filename="a.ppm', image), ("keep", b"1")):
            body += f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b"\r\n"
        head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body) + 7}\r\n"
        status, headers, answer = self._ask(
            f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode() + body + b"--x--\r\n"
        )
        if status != 200:
            raise RuntimeError(f"the server refuses a valid upload: {answer!r}")
        session = re.search("tokenloc-session=([^;]+)", headers)
        self.kept = {
            b"{token}": json.loads(answer)["result"].encode(),
            b"{session}": session[1].encode() if session else b"",
        }

    def problem(self, case: Case) -> str | None:
        """Return a traceback or another unexpected answer, None if the answer is as it should be."""
        try:
            if case.source == "images":
                return self._localize(case.content)
            return self._call(case.content) if case.source == "requests" else _run(case.content)
        except Exception:
            return traceback.format_exc()

    def _localize(self, image: bytes) -> str | None:
        with suppress(ValueError, OSError):
            self.localizer(image)
        return None

    def _call(self, request: bytes) -> str | None:
        for name, value in self.kept.items():
            request = request.replace(name, value)
        try:
            status, _, body = self._ask(request)
        except (HTTPException, ConnectionError):
            return None  # the server closed the connection, or sent a part of an answer to what is not HTTP
        if status >= 500 and status != 503:
            return f"status {status}: {body[:500]!r}"
        return next((f"path in the answer: {body[:2000]!r}" for path in self.private if path.encode() in body), None)

    def _ask(self, request: bytes) -> tuple[int, str, bytes]:
        with socket.create_connection(self.address) as connection:
            with suppress(ConnectionError):  # refused before it is read
                connection.sendall(request)
            response = HTTPResponse(connection)
            response.begin()
            return response.status, str(response.headers), response.read()


def _run(arguments: list[str]) -> str | None:
    from tokenloc.cli import main

    try:
        status = main(arguments)
    except SystemExit as error:
        status = error.code
    return None if status in (0, 1, 2, None) else f"exit status {status}"


def work(connection: Connection, folder: Path, checkpoint: Path) -> None:
    """Answer each case with its problem or None, and the peak memory in bytes so far."""
    os.setsid()  # so that its children can be stopped with it
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(folder)
    output = (folder / "output.txt").open("ab+")
    null = os.open(os.devnull, os.O_RDONLY)
    for number, file in ((0, null), (1, output.fileno()), (2, output.fileno())):
        os.dup2(file, number)
    import torch

    from tokenloc.server import limits, run
    from tokenloc.server.app import create_app
    from tokenloc.server.hosts import valid_hosts

    torch.set_num_threads(1)
    limits.STALL_SECONDS, run.HEADER_SECONDS = 0.3, 1
    app = create_app(run.load_models([checkpoint], "cpu"), limits.Limits(), valid_hosts("127.0.0.1"))
    with run.serving(app, run.listen("127.0.0.1", 0)) as url:
        subject = Subject(checkpoint, url)
        connection.send(None)
        while (case := connection.recv()) is not None:
            output.truncate(0)
            problem = subject.problem(case)
            output.seek(0)
            printed = output.read().decode("utf-8", "replace")
            if problem is None and "Traceback (most recent call last)" in printed:
                problem = printed
            usages = (resource.getrusage(one) for one in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
            connection.send((problem, 1024 * max(usage.ru_maxrss for usage in usages)))


class Worker:
    """A process that answers cases; it is replaced after a crash or hang."""

    def __init__(self, folder: Path, checkpoint: Path, timeout: float, target: Callable[..., None] = work) -> None:
        self.timeout = timeout
        self._target, self._arguments = target, (folder, checkpoint)
        self._process: Any = None

    def __enter__(self) -> Worker:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def run(self, case: Case) -> tuple[str, str, int]:
        """Return the kind of failure ("" for none), what was printed, and the peak memory in bytes so far."""
        if self._process is None:
            self._start()
        self._connection.send(case)
        try:
            if not self._connection.poll(self.timeout):
                self._stop()
                return "hang", f"no result within {self.timeout:g} s", 0
            problem, peak = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            status = self._process.exitcode
            self._stop()
            return "crash", f"exit status {status}", 0
        return "traceback" if problem else "", problem or "", peak

    def _start(self) -> None:
        self._connection, other = get_context("spawn").Pipe()
        self._process = get_context("spawn").Process(target=self._target, args=(other, *self._arguments), daemon=True)
        self._process.start()
        other.close()
        self._connection.recv()

    def _stop(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.join()
            self._process = None


# ---- counting


def make_checkpoint(folder: Path) -> Path:
    """Write a tiny untrained model; return its folder."""
    from tokenloc import Localizer, create_model
    from tokenloc.models.metadata import ModelMetadata, Preprocessing

    model = create_model("tscam", "vit_tiny_patch16_224", 3, False, 32, backbone_options=TINY)
    Localizer(model, ModelMetadata(model.config, ("a", "b", "c"), Preprocessing((32, 32)))).save_pretrained(folder)
    return folder


def fuzz(
    cases: Iterator[Case], worker: Worker, folder: Path, seconds: float, most: int | None = None
) -> tuple[dict[str, Count], list[str]]:
    """Run cases until ``seconds`` have passed or ``most`` are done; return the counts by source, and the failures."""
    counts: dict[str, Count] = {}
    failures: list[str] = []
    end = time.monotonic() + seconds
    for done, case in enumerate(cases):
        if time.monotonic() > end or done == most:
            break
        count = counts.setdefault(case.source, Count())
        count.cases += 1
        kind, printed, peak = worker.run(case)
        count.peak = max(count.peak, peak)
        for marker in [path for pattern in MARKERS for path in folder.glob(pattern)]:
            kind, printed = "executed", f"{marker} appeared\n{printed}"
            marker.unlink()
        if kind:
            count.failures[kind] += 1
            failures.append(f"{kind} in case {case.number} ({case.source}: {case.name}): {printed[-3000:]}")
            print(failures[-1], flush=True)
    return counts, failures


def print_table(counts: dict[str, Count]) -> None:
    """Print the counts as Markdown."""
    print(
        "| source | cases | tracebacks | crashes | hangs | code executed | peak memory |\n|---|---|---|---|---|---|---|"
    )
    for source, count in counts.items():
        failed = " | ".join(str(count.failures[kind]) for kind in FAILURES)
        print(f"| {source} | {count.cases:,} | {failed} | {count.peak / 1e9:.1f} GB |")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--cases", type=int, help="stop after so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--only", type=int, metavar="N", help="run case N alone, and print it")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for one case")
    given = parser.parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory(prefix="tokenloc-fuzz-") as name:
        folder = Path(name)
        cases = all_cases(given.seed, given.sources, folder)
        with Worker(folder, make_checkpoint(folder / "model"), given.timeout) as worker:
            if given.only is not None:
                cases = (case for case in cases if case.number == given.only)
                case = next(cases)
                print(case)
                cases = iter([case])
            counts, failures = fuzz(cases, worker, folder, 60 * given.minutes, given.cases)
    print_table(counts)
    if failures:
        chosen = f"--seed {given.seed} --sources {' '.join(given.sources)}"
        print(f"{len(failures)} failures; repeat one with: python experiments/fuzz.py {chosen} --only N")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
