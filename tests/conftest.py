"""Shared fixtures."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from playwright.sync_api import Browser, Page

from tests.browser import DESKTOP, PHONE, chromium, watched_page
from tests.runs import tiny_run

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # shells ignore it in background jobs
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests of Ctrl-C need it

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

REPOSITORY = Path(__file__).resolve().parents[1]


def _shared() -> Path:
    return Path(os.environ.get("TOKENLOC_SHARED", REPOSITORY.parent / "shared"))


def _existing(folder: Path, variable: str) -> Path:
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist; set {variable} to run this test")
    return folder


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Real weights and images; tests that need them are skipped if the folder is missing."""
    return _existing(_shared(), "TOKENLOC_SHARED")


@pytest.fixture(scope="session")
def parity_dir() -> Path:
    """Recorded outputs of the authors' released code."""
    return _existing(Path(os.environ.get("TOKENLOC_PARITY_DIR", _shared() / "parity")), "TOKENLOC_PARITY_DIR")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished tiny run; tests must not change it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    tiny_run(folder)
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium; see ``tests.browser``."""
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of desktop width; the test fails on errors in the console and on network requests."""
    with watched_page(browser, DESKTOP) as opened:
        yield opened


@pytest.fixture
def phone_page(browser: Browser) -> Iterator[Page]:
    """Like ``page``, of phone width."""
    with watched_page(browser, PHONE) as opened:
        yield opened
