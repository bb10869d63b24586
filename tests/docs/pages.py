"""The snippets of the pages, and what is run in place of those that cannot be run as they stand."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tests.conftest import REPOSITORY

PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "docs").rglob("*.md")),
]
RUN = {"bash", "python", "yaml"}
"""Languages of snippets that are run; yaml is a file, which the page's commands use."""
SHOWN = {"text", "json"}
"""Languages that are only shown; with the title "prints" it is what the snippet before it prints."""

_FENCED = re.compile(r"^( *)```(\w*)([^\n]*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Snippet:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    title: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> list[str]:
        """Return what is run one after another: the lines of a shell's snippet, else the whole."""
        if self.language != "bash":
            return [self.text]
        lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in self.text.replace("\\\n", " ").splitlines())
        return [re.sub(r"\s+", " ", line) for line in lines if line]


@dataclass(frozen=True)
class Substitute:
    """What does not run as it stands.

    Args:
        pages: a shell wildcard.
        found: a regular expression, sought in each command of the pages.
        instead: what stands in its place (as in ``re.sub``); None: the command is not run.
        reason: why.
    """

    pages: str
    found: str
    instead: str | None
    reason: str

    def fits(self, page: str, command: str) -> bool:
        return fnmatchcase(page, self.pages) and re.search(self.found, command, re.MULTILINE) is not None


def snippets(page: str) -> Iterator[Snippet]:
    """Yield a page's fenced blocks, in order."""
    content = (REPOSITORY / page).read_text(encoding="utf-8")
    for match in _FENCED.finditer(content):
        _, language, info, text = match.groups()
        title = re.search(r'title="([^"]*)"', info)
        line = content.count("\n", 0, match.start()) + 1
        yield Snippet(page, line, language, title[1] if title else "", textwrap.dedent(text))


def without_snippets(page: str) -> str:
    """Return a page's text outside of fenced blocks."""
    return _FENCED.sub("", (REPOSITORY / page).read_text(encoding="utf-8"))


def as_run(page: str, command: str, substitutes: list[Substitute]) -> str | None:
    """Return what is run in place of a command; None where it is not run."""
    for one in substitutes:
        if one.fits(page, command):
            if one.instead is None:
                return None
            command = re.sub(one.found, one.instead, command, flags=re.MULTILINE)
    return command
