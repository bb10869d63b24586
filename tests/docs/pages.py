"""The snippets of the pages, and the commands that run in place of those that cannot run unchanged."""

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
"""Languages of snippets that run; a yaml snippet is a file that the page's commands use, named by its title."""
DISPLAYED = {"text", "json"}
"""Languages of snippets that do not run; with the title "prints", it is the output of the snippet before it."""

_FENCED = re.compile(r"^( *)```(\w*)([^\n]*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Snippet:
    """A fenced block of a page; ``location`` is its page and line."""

    location: str
    language: str
    title: str
    text: str

    @property
    def page(self) -> str:
        return self.location.rpartition(":")[0]

    def commands(self) -> list[str]:
        """Return the lines of a shell snippet without comments, or the whole text of another one."""
        if self.language != "bash":
            return [self.text]
        lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in self.text.replace("\\\n", " ").splitlines())
        return [re.sub(r"\s+", " ", line) for line in lines if line]


@dataclass(frozen=True)
class Substitute:
    """A command that the tests change or skip.

    Args:
        pages: a shell wildcard.
        pattern: a regular expression that is searched in each command of the pages.
        replacement: replaces the match, as in ``re.sub``; None skips the command.
        reason: why the command cannot run unchanged.
    """

    pages: str
    pattern: str
    replacement: str | None
    reason: str

    def matches(self, page: str, command: str) -> bool:
        return fnmatchcase(page, self.pages) and re.search(self.pattern, command, re.MULTILINE) is not None


def snippets(page: str) -> Iterator[Snippet]:
    """Yield the fenced blocks of a page in order."""
    content = (REPOSITORY / page).read_text(encoding="utf-8")
    for match in _FENCED.finditer(content):
        _, language, info, text = match.groups()
        title = re.search(r'title="([^"]*)"', info)
        line = content.count("\n", 0, match.start()) + 1
        yield Snippet(f"{page}:{line}", language, title[1] if title else "", textwrap.dedent(text))


def without_snippets(page: str) -> str:
    """Return the text of a page outside of fenced blocks."""
    return _FENCED.sub("", (REPOSITORY / page).read_text(encoding="utf-8"))


def substituted(page: str, command: str, substitutes: list[Substitute]) -> str | None:
    """Return the command that runs in place of ``command``, or None to skip it."""
    for one in substitutes:
        if one.matches(page, command):
            if one.replacement is None:
                return None
            command = re.sub(one.pattern, one.replacement, command, flags=re.MULTILINE)
    return command
