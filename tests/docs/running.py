"""Running the snippets of a page in order, as a reader would."""

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
from tests.docs.pages import DISPLAYED, Snippet, snippets, substituted
from tests.docs.substitutes import SUBSTITUTES
from tokenloc.cli import main


def run_page(page: str) -> int:
    """Run the snippets of a page in the current folder; return the number of commands."""
    names: dict[str, Any] = {"__name__": "page"}
    count, printed = 0, ""
    for snippet in snippets(page):
        if snippet.language in DISPLAYED:
            if snippet.title == "prints":
                check_printed(snippet, printed)
            continue
        commands = [substituted(page, command, SUBSTITUTES) for command in snippet.commands()]
        outputs = [run_command(snippet, command, names) for command in commands if command is not None]
        count, printed = count + len(outputs), "".join(outputs)
    return count


def run_command(snippet: Snippet, command: str, names: dict[str, Any]) -> str:
    """Run one command of a snippet; return its output."""
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        if snippet.language == "yaml":
            Path(snippet.title).write_text(command)
        elif snippet.language == "python":
            exec(compile(command, snippet.location, "exec"), names)
        elif status := _run_line(snippet, command):
            pytest.fail(f"{snippet.location}: exit status {status} of\n  {command}\n{output.getvalue()}")
    return output.getvalue()


def _run_line(snippet: Snippet, command: str) -> int:
    program, *arguments = shlex.split(command)
    if program == "python" and arguments[0].startswith(("benchmarks/", "experiments/")):
        script = REPOSITORY / arguments[0]
        with mock.patch.multiple(sys, argv=[str(script), *arguments[1:]], path=[str(script.parent), *sys.path]):
            runpy.run_path(str(script), run_name="__main__")
        return 0
    if program != "tokenloc":
        pytest.fail(f"{snippet.location}: the tests cannot run {program!r}; see tests/docs/substitutes.py")
    if arguments[0] == "train" and "--resume" not in arguments:
        shutil.rmtree(_run_folder(command), ignore_errors=True)
    return main(arguments)


def _run_folder(command: str) -> Path:
    out, recipe = re.search(r"--out (\S+)", command), re.search(r"--config (\S+)", command)
    if out is None and recipe is not None:
        return Path(yaml.safe_load(Path(recipe[1]).read_text())["out"])
    return Path(out[1] if out else "runs/latest")


def check_printed(snippet: Snippet, printed: str) -> None:
    """Compare a displayed output with the actual one: whitespace is ignored, and … matches anything."""
    pattern = re.escape(" ".join(snippet.text.split())).replace("…", ".*")
    if re.fullmatch(pattern, " ".join(printed.split()), re.DOTALL) is None:
        pytest.fail(f"{snippet.location}: the page shows\n{snippet.text}\nbut the output is\n{printed}")
