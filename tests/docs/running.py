"""Running a page's snippets one after another, as a person who follows the page would."""

from __future__ import annotations

import io
import re
import runpy
import shlex
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.docs.pages import SHOWN, Snippet, as_run, snippets
from tests.docs.substitutes import SUBSTITUTES
from tokenloc.cli import main


def run_page(page: str) -> int:
    """Run a page's snippets in the current folder; return how many commands were run."""
    names: dict[str, Any] = {"__name__": "page"}
    count, printed = 0, ""
    for snippet in snippets(page):
        if snippet.language in SHOWN:
            if snippet.title == "prints":
                check_printed(snippet, printed)
            continue
        printed = ""
        for command in snippet.commands():
            run = as_run(page, command, SUBSTITUTES)
            if run is not None:
                count += 1
                printed += run_command(snippet, run, names)
    return count


def run_command(snippet: Snippet, command: str, names: dict[str, Any]) -> str:
    """Run one command or snippet; return what it prints."""
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        if snippet.language == "yaml":
            Path(snippet.title).write_text(command)
        elif snippet.language == "python":
            exec(compile(command, snippet.place, "exec"), names)
        else:
            status = run_line(snippet, command)
            if status:
                pytest.fail(f"{snippet.place}: exit status {status} of\n  {command}\n{output.getvalue()}")
    return output.getvalue()


def run_line(snippet: Snippet, command: str) -> int:
    """Run a line of a shell; return its exit status."""
    program, *arguments = shlex.split(command)
    if program == "python" and arguments[0].startswith(("benchmarks/", "experiments/")):
        return run_script(REPOSITORY / arguments[0], arguments[1:])
    if program != "tokenloc":
        pytest.fail(f"{snippet.place}: {program!r} is not run by the tests; see tests/docs/substitutes.py")
    return main(arguments)


def run_script(path: Path, arguments: list[str]) -> int:
    """Run a script as python would."""
    with (
        mock.patch.object(sys, "argv", [str(path), *arguments]),
        mock.patch.object(sys, "path", [str(path.parent), *sys.path]),
    ):
        runpy.run_path(str(path), run_name="__main__")
    return 0


def check_printed(snippet: Snippet, printed: str) -> None:
    """Compare what a page shows with what was printed: space does not count, … stands for anything."""
    shown = " ".join(snippet.text.split())
    pattern = re.escape(shown).replace("…", ".*")
    if re.fullmatch(pattern, " ".join(printed.split()), re.DOTALL) is None:
        pytest.fail(f"{snippet.place}: the page shows\n{snippet.text}\nbut what is printed is\n{printed}")


def train_like(command: str) -> None:
    """Train as a page has it, made small."""
    snippet = Snippet("the tests", 0, "bash", "", command)
    run_command(snippet, as_run("the tests", command, SUBSTITUTES) or "", {})


def begin_anew(page: str) -> None:
    """Remove the runs that a page's own commands make."""
    for snippet in snippets(page):
        for command in snippet.commands() if snippet.language == "bash" else []:
            if command.startswith("tokenloc train ") and "--resume" not in command:
                shutil.rmtree(_out(command), ignore_errors=True)


def _out(command: str) -> Path:
    given, recipe = re.search(r"--out (\S+)", command), re.search(r"--config (\S+)", command)
    if given is None and recipe is not None and Path(recipe[1]).is_file():
        return Path(yaml.safe_load(Path(recipe[1]).read_text())["out"])
    return Path(given[1] if given else "runs/latest")
