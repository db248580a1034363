"""Errors of manifests and sessions; each message says how to correct what is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class SessionError(RuntimeError):
    """A session cannot do what was asked; the message says why and what to do."""


class Problem(NamedTuple):
    """One thing that is wrong with a manifest, and where.

    Attributes
    ----------
    file : str
        The manifest.
    line, column : int
        Position of the key or value, from 1; 0 where the problem has no place in the file.
    key : str
        The key, from the top: ``targets.hpc.walltime``. Empty for the file as a whole.
    message : str
        What is wrong and what would be right.
    """

    file: str
    line: int
    column: int
    key: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


class ManifestError(ValueError):
    """A manifest cannot be used; the message lists every problem, one per line.

    Attributes
    ----------
    problems : tuple of Problem
        In the order of the file.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        super().__init__("\n".join(map(str, self.problems)))
