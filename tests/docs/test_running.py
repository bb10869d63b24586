"""The functions that run the snippets report what fails."""

from __future__ import annotations

import pytest

from tests.docs.pages import Snippet, Substitute, substituted
from tests.docs.running import check_printed, run_command

Failed = pytest.fail.Exception


def shell(text: str) -> Snippet:
    return Snippet("page.md:7", "bash", "", text)


def test_shell_lines_without_comments_are_commands() -> None:
    text = "# first\ntokenloc list  methods   # names\n\ntokenloc info \\\n  --split val\nA=#1 b\n"
    assert shell(text).commands() == ["tokenloc list methods", "tokenloc info --split val", "A=#1 b"]


@pytest.mark.parametrize("line", ["curl page", "cd elsewhere", "tokenloc list recipies", "tokenloc info nothing.ckpt"])
def test_failing_line(line: str) -> None:
    with pytest.raises((Failed, SystemExit)):
        run_command(shell(line), line, {})


def test_python_snippets_share_names_and_may_raise() -> None:
    names: dict[str, object] = {}
    snippet = Snippet("page.md:7", "python", "", "")
    assert run_command(snippet, "a = 3\nprint(a)", names) == "3\n"
    assert run_command(snippet, "print(a + 1)", names) == "4\n"
    with pytest.raises(ZeroDivisionError):
        run_command(snippet, "a / 0", names)


@pytest.mark.parametrize("displayed", ["a  b\n", "a …", "…"])
def test_matching_output(displayed: str) -> None:
    check_printed(Snippet("page.md:7", "text", "prints", displayed), "a b\n")


@pytest.mark.parametrize("displayed", ["a", "a c", "… c", "a.b"])
def test_other_output_fails(displayed: str) -> None:
    with pytest.raises(Failed, match=r"page\.md:7: the page shows"):
        check_printed(Snippet("page.md:7", "text", "prints", displayed), "a b\n")


def test_substitutes_are_applied_in_order() -> None:
    more, skip = Substitute("*.md", "^a b", r"\g<0> --c", "why"), Substitute("docs/*", " --c$", None, "why")
    assert substituted("page.md", "a b", [more, skip]) == "a b --c"
    assert substituted("docs/page.md", "a b", [more, skip]) is None
    assert substituted("page.txt", "a b", [more, skip]) == "a b"
