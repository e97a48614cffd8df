"""The exchange's error: a document that can't be read or imported, with each problem and its place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from registry_admin.errors import RegistryError


class Problem(NamedTuple):
    """A fault of a document: the entry that has it, its line (0: unknown), and the text."""

    where: str
    line: int
    text: str

    def __str__(self) -> str:
        line = f"line {self.line}" if self.line else ""
        place = f"{self.where} ({line})" if line and self.where else self.where or line or "document"
        return f"{place}: {self.text}"


class DocumentError(RegistryError, ValueError):
    """The document can't be read or imported, and nothing was written. Correct its `problems` and try again."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(map(str, self.problems[:5])))

    @classmethod
    def at(cls, line: int, text: str) -> DocumentError:
        """Returns the error with a single problem at a line (0: unknown)."""
        return cls([Problem("", line, text)])
