"""Every command and snippet of README, CONTRIBUTING and the pages is run, in order, or its reason not to is told."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import pytest

from tests.conftest import REPOSITORY
from tests.docs.pages import PAGES, RUN, SHOWN, Snippet, Substitute, as_run, snippets, without_snippets
from tests.docs.running import begin_anew, run_page
from tests.docs.substitutes import SUBSTITUTES
from tokenloc.cli import _make_parser
from tokenloc.methods import METHODS

ALL = [snippet for page in PAGES for snippet in snippets(page)]
COMMANDS = [(snippet, command) for snippet in ALL if snippet.language in RUN for command in snippet.commands()]
WITH_COMMANDS = [
    page for page in PAGES if any(s.page == page and as_run(page, c, SUBSTITUTES) is not None for s, c in COMMANDS)
]


@pytest.fixture
def _same_methods() -> Iterator[None]:
    """Forget the methods that a page registers."""
    known = dict(METHODS._items)
    yield
    METHODS._items.clear()
    METHODS._items.update(known)


@pytest.mark.usefixtures("at_home", "_same_methods")
@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_page_runs(page: str) -> None:
    begin_anew(page)
    assert run_page(page) > 0


@pytest.mark.parametrize("snippet", ALL, ids=lambda snippet: snippet.place)
def test_snippet_is_of_a_known_kind(snippet: Snippet) -> None:
    assert snippet.language in RUN | SHOWN, f"{snippet.place}: say bash, python, yaml, text or json"
    if snippet.language == "yaml":
        assert snippet.title.endswith(".yaml"), f'{snippet.place}: a file wants title="its path"'


@pytest.mark.parametrize("substitute", SUBSTITUTES, ids=lambda one: f"{one.pages} {one.found}")
def test_substitute_is_needed_and_has_a_reason(substitute: Substitute) -> None:
    assert any(substitute.fits(snippet.page, command) for snippet, command in COMMANDS), "matches nothing: remove it"
    assert len(substitute.reason) > 10


@pytest.mark.parametrize("page", PAGES)
def test_no_command_hides_outside_of_a_fence(page: str) -> None:
    hidden = re.findall(r"^ {4,}(?:tokenloc|python|pip|make) .*", without_snippets(page), re.MULTILINE)
    assert hidden == []


def test_commands_in_sentences_exist() -> None:
    """`tokenloc …` between backticks names a command and flags that there are."""
    _, commands = _make_parser()
    spans = [span for page in PAGES for span in re.findall(r"`tokenloc ([a-z][^`]*)`", without_snippets(page))]
    assert len(spans) >= 10
    for span in spans:
        name = span.split()[0]
        assert name in commands, f"tokenloc {span}"
        for flag in re.findall(r"--([a-z_-]+)", span):
            assert flag.replace("-", "_") in inspect.signature(commands[name]).parameters, f"tokenloc {span}"


def test_make_has_the_targets_that_pages_name() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = {command.split()[1] for _, command in COMMANDS if command.startswith("make ")}
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_scripts_that_pages_name_exist_with_their_flags() -> None:
    lines = [command for _, command in COMMANDS if command.startswith(("python benchmarks/", "python experiments/"))]
    folders = ("benchmarks", "experiments")
    scripts = {f"{folder}/{path.name}" for folder in folders for path in (REPOSITORY / folder).glob("[!_]*.py")}
    assert {line.split()[1] for line in lines} == scripts
    for line in lines:
        assert any(one.fits("docs/benchmarks.md", line) for one in SUBSTITUTES), f"{line} takes minutes: shorten it"
        _, script, *words = line.split()
        source = (REPOSITORY / script).read_text()
        for flag in (word for word in words if word.startswith("--")):
            assert f'"{flag}"' in source, f"{line}: {script} has no {flag}"
