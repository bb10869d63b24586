"""The harness itself: what it must not let pass."""

from __future__ import annotations

import pytest

from tests.docs.pages import Snippet, Substitute, as_run
from tests.docs.running import check_printed, run_command

Failed = pytest.fail.Exception


def shell(text: str) -> Snippet:
    return Snippet("page.md", 7, "bash", "", text)


def test_a_shells_lines_are_commands_without_their_comments() -> None:
    text = "# first\ntokenloc list  methods   # names\n\ntokenloc info \\\n  --split val\nA=#1 b\n"
    assert shell(text).commands() == ["tokenloc list methods", "tokenloc info --split val", "A=#1 b"]


@pytest.mark.parametrize("line", ["curl page", "cd elsewhere", "tokenloc list recipies", "tokenloc info nothing.ckpt"])
def test_a_line_that_does_not_run_fails(line: str) -> None:
    with pytest.raises((Failed, SystemExit)):
        run_command(shell(line), line, {})


def test_a_snippet_that_raises_fails_and_names_are_kept() -> None:
    names: dict[str, object] = {}
    snippet = Snippet("page.md", 7, "python", "", "")
    assert run_command(snippet, "a = 3\nprint(a)", names) == "3\n"
    assert run_command(snippet, "print(a + 1)", names) == "4\n"
    with pytest.raises(ZeroDivisionError):
        run_command(snippet, "a / 0", names)


@pytest.mark.parametrize("shown", ["a  b\n", "a …", "…"])
def test_what_is_printed_as_shown_passes(shown: str) -> None:
    check_printed(Snippet("page.md", 7, "text", "prints", shown), "a b\n")


@pytest.mark.parametrize("shown", ["a", "a c", "… c", "a.b"])
def test_what_is_printed_otherwise_fails(shown: str) -> None:
    with pytest.raises(Failed, match=r"page\.md:7: the page shows"):
        check_printed(Snippet("page.md", 7, "text", "prints", shown), "a b\n")


def test_substitutes_follow_one_another() -> None:
    more, skip = Substitute("*.md", "^a b", r"\g<0> --c", "why"), Substitute("docs/*", " --c$", None, "why")
    assert as_run("page.md", "a b", [more, skip]) == "a b --c"
    assert as_run("docs/page.md", "a b", [more, skip]) is None
    assert as_run("page.txt", "a b", [more, skip]) == "a b"
