"""Every command and snippet of the README, CONTRIBUTING and the pages runs, or has a substitute with a reason."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.conftest import REPOSITORY
from tests.docs.pages import DISPLAYED, PAGES, RUN, Substitute, snippets, substituted, without_snippets
from tests.docs.running import run_page
from tests.docs.substitutes import SUBSTITUTES
from tokenloc.cli import COMMANDS, _make_parser
from tokenloc.methods import METHODS

ALL = [snippet for page in PAGES for snippet in snippets(page)]
LINES = [(snippet.page, command) for snippet in ALL if snippet.language in RUN for command in snippet.commands()]
RUN_PAGES = sorted({page for page, command in LINES if substituted(page, command, SUBSTITUTES) is not None})


@pytest.fixture
def _same_methods() -> Iterator[None]:
    """Remove the methods that a page registers."""
    known = dict(METHODS._items)
    yield
    METHODS._items.clear()
    METHODS._items.update(known)


@pytest.mark.slow
@pytest.mark.usefixtures("at_home", "_same_methods")
@pytest.mark.parametrize("page", RUN_PAGES)
def test_page_runs(page: str) -> None:
    assert run_page(page) > 0


def test_languages_of_snippets() -> None:
    for snippet in ALL:
        assert snippet.language in RUN | DISPLAYED, f"{snippet.location}: use bash, python, yaml, text or json"
        assert snippet.language != "yaml" or snippet.title.endswith(".yaml"), f"{snippet.location}: title is no path"


@pytest.mark.parametrize("substitute", SUBSTITUTES, ids=lambda one: f"{one.pages} {one.pattern}")
def test_substitute_is_used(substitute: Substitute) -> None:
    assert any(substitute.matches(page, command) for page, command in LINES), "matches nothing: remove it"


@pytest.mark.parametrize("page", PAGES)
def test_no_command_in_an_indented_block(page: str) -> None:
    assert re.findall(r"^ {4,}(?:tokenloc|python|pip|make) .*", without_snippets(page), re.MULTILINE) == []


def test_inline_commands_exist() -> None:
    """`tokenloc …` between backticks names an existing command with existing flags."""
    spans = [span for page in PAGES for span in re.findall(r"`tokenloc ([a-z][^`]*)`", without_snippets(page))]
    assert len(spans) >= 10
    flags: dict[str, set[str]] = {}
    for span in spans:
        name = span.split()[0]
        assert name in COMMANDS, f"tokenloc {span}"
        if name not in flags:
            flags[name] = {option.partition(".")[0] for option in _make_parser([name])[0].options}
        for flag in re.findall(r"--([a-z_-]+)", span):
            assert flag.replace("-", "_") in flags[name], f"tokenloc {span}"


def test_make_targets_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = {command.split()[1] for _, command in LINES if command.startswith("make ")}
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_scripts_and_their_flags_exist() -> None:
    lines = [command for _, command in LINES if command.startswith(("python benchmarks/", "python experiments/"))]
    folders = ("benchmarks", "experiments")
    scripts = {f"{folder}/{path.name}" for folder in folders for path in (REPOSITORY / folder).glob("[!_]*.py")}
    assert {line.split()[1] for line in lines} == scripts
    for line in lines:
        _, script, *words = line.split()
        source = (REPOSITORY / script).read_text()
        for flag in (word for word in words if word.startswith("--")):
            assert f'"{flag}"' in source, f"{line}: {script} has no {flag}"
