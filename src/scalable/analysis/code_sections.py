"""What a report says of code and data, as a section."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from scalable.analysis import units
from scalable.analysis.code_and_data import Code, CodeAndData, Function
from scalable.analysis.environments import Environments, difference_words
from scalable.analysis.sections import Block, Fact, Facts, Section, Sentence
from scalable.analysis.units import plural

#: Functions in several versions that are named.
_MAX_NAMED: Final = 5
_SHORT: Final = 12


def code_section(found: CodeAndData) -> Section | None:
    """Return the section; None if the record says nothing of code and data."""
    if found.is_empty:
        return None
    blocks: list[Block] = [Facts(tuple(_facts(found)))]
    blocks += _versions(found)
    blocks += _environments(found.environments)
    return Section(tuple(blocks), "Code and data")


def _facts(found: CodeAndData) -> Iterator[Fact]:
    if found.retry_of:
        yield Fact("Retry of", found.retry_of)
    for code in found.code:
        yield Fact("Code", code_words(code, has_patch=found.has_patch))
    if found.functions:
        names = {(one.task_name, one.function_name) for one in found.functions}
        text = plural(len(names), "function")
        partly = sum(1 for one in found.functions if one.not_covered)
        if partly:
            text += f"; {partly:,} with parts that are not covered"
        yield Fact("Functions", text)
    if found.python:
        packages = f", {plural(len(found.packages), 'package')}" if found.packages else ""
        yield Fact("Python", f"{found.python}{packages}")
    if found.files_read or found.files_written:
        parts = units.counts((found.files_read, "read"), (found.files_written, "written"))
        yield Fact("Files", f"{parts}, with their digests in artifacts.jsonl")


def code_words(code: Code, *, has_patch: bool = False) -> str:
    """Say which version of the code it was, and what was changed since."""
    if not code.identifier:
        return code.message or "not known"
    where = f" on {code.branch}" if code.branch else ""
    kind = code.kind or "version"
    identifier = code.identifier.removeprefix("sha256:")[:_SHORT]
    text = f"{kind} {identifier}{where}"
    changed = units.counts(*((count, kind) for kind, count in code.changes.items()))
    if changed:
        text += f", with changes: {changed}"
        text += " (code.patch)" if has_patch else ""
    elif code.dependable is False and code.message:
        text += f". {code.message}"
    return text


def _environments(found: Environments) -> Iterator[Sentence]:
    named = found.named
    for one in named[:_MAX_NAMED]:
        yield Sentence(difference_words(one, found.worker_count), "bullet", "warning")
    more = {one.package for one in named[_MAX_NAMED:]}
    if more:
        yield Sentence(f"and {plural(len(more), 'more package')} differ", "aside", "quiet")
    if found.others:
        text = f"{plural(found.others, 'package')} that nothing was seen to import"
        verb = "differs" if found.others == 1 else "differ"
        yield Sentence(f"{text} {verb} from the program's", "aside", "quiet")


def version_words(name: str, one: Function) -> str:
    """Say where another version of a function ran first, and in what it differs."""
    where = f"worker {one.worker}" if one.worker else "a worker"
    differs = f": {', '.join(one.differs)}" if one.differs else ""
    return f"{where} ran another version of {name}{differs}"


def _versions(found: CodeAndData) -> Iterator[Sentence]:
    versions = found.versions
    for name, rows in list(versions.items())[:_MAX_NAMED]:
        for one in rows[1:]:
            yield Sentence(version_words(name, one), "bullet", "warning")
    if len(versions) > _MAX_NAMED:
        more = plural(len(versions) - _MAX_NAMED, "more function")
        yield Sentence(f"and {more}", "aside", "quiet")
