"""The identity of a function: what it is made of, each part with a digest of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

SOURCE: Final = "source"
HELPER: Final = "helper"
CLASS: Final = "class"
DECORATOR: Final = "decorator"
DEFAULT: Final = "default"
CLOSURE: Final = "closure"
CONSTANT: Final = "constant"
PACKAGE: Final = "package"

#: Ends the name of a constant's value, beside what computes it.
VALUE_OF: Final = " (value)"

#: Kinds of components that have a source text.
WITH_SOURCE: Final = frozenset({SOURCE, HELPER, CLASS, DECORATOR})


@dataclass(frozen=True, order=True, slots=True)
class Component:
    """One thing that a function is made of.

    Attributes
    ----------
    kind : str
        ``source`` for the function itself, ``helper``, ``class``, ``decorator``, ``default``,
        ``closure``, ``constant`` or ``package``.
    name : str
        Its full name.
    digest : str
        SHA-256 of what it is, as hex digits.
    detail : str
        Where it is (``file:line``), its value or its version, for people. No part of the identity.
    source : str
        Its source text, if it has one, cut. No part of the identity.
    held : bool
        It is reached through a live object, such as a closure, and not by names alone. No part of
        the identity; set in records only.
    """

    kind: str
    name: str
    digest: str
    detail: str = ""
    source: str = ""
    held: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """Its kind and name."""
        return self.kind, self.name


@dataclass(frozen=True, slots=True)
class FunctionIdentity:
    """What a function is, with what it calls.

    Attributes
    ----------
    components : tuple of Component
        All that was found, sorted.
    not_covered : tuple of str
        What cannot be seen, a sentence each. No part of the identity.
    module, qualname : str
        The name of the function.
    file : str or None
        Its source file, or the name of a notebook's cell.
    line : int or None
        The first line of its source.
    source : str or None
        Its source text; None if it is not known, or the function is not of the project.
    """

    components: tuple[Component, ...]
    not_covered: tuple[str, ...]
    module: str
    qualname: str
    file: str | None = None
    line: int | None = None
    source: str | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the components, as hex digits."""
        return identity_digest(self.components)

    @property
    def name(self) -> str:
        """Module and qualified name."""
        return f"{self.module}.{self.qualname}" if self.module else self.qualname

    @property
    def dependable(self) -> bool:
        """Whether the function's own code is part of its identity: by its source, or by version."""
        return any(each.kind == SOURCE for each in self.components)


def identity_digest(components: Iterable[Component]) -> str:
    """SHA-256 of kind, name and digest of components, in their order by these."""
    state = hashlib.sha256()
    for key in sorted({(each.kind, each.name, each.digest) for each in components}):
        state.update("\0".join(key).encode("utf-8", "surrogatepass") + b"\n")
    return state.hexdigest()
