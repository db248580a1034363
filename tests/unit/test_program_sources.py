"""Source texts of the program: functions and frames are found in them, only where they agree."""

from __future__ import annotations

import linecache
import os
import sys
import threading
import time
from types import CodeType, ModuleType
from typing import Any

import pytest

from scalable.code import own_sources as own
from scalable.code import sources
from scalable.code.own_sources import OwnSources
from scalable.code.sources import ProgramSources, SourceText

SCRIPT = '''
import functools


def deco(function):
    @functools.wraps(function)
    def wrapped(*arguments):
        return function(*arguments)
    return wrapped


@deco
@deco
def bad(x):
    """Divide."""
    return 1 / x


class Model:
    def run(self, x):
        def inner(y):
            return y + x
        return inner(x)

    async def wait(self):
        return None


double = lambda x: 2 * x
'''
PATH = "/srv/script.py"


def sent(text: str, *qualname: str, **options: Any) -> CodeType:
    """The code of a function as cloudpickle sends it: without its file."""
    code = compile(text, "anything", "exec", dont_inherit=True, **options)
    for name in qualname:
        code = next(
            const
            for const in code.co_consts
            if isinstance(const, CodeType) and const.co_name == name
        )
    return code.replace(co_filename="<dynamic-code>")


def known(*texts: SourceText) -> ProgramSources:
    found = ProgramSources()
    for text in texts:
        found.add(text)
    return found


@pytest.mark.parametrize(
    ("path", "first", "text"),
    [
        (("bad",), 12, SCRIPT[SCRIPT.index("@deco\n@deco") : SCRIPT.index("\n\nclass")]),
        (("deco", "wrapped"), 6, None),
        (("Model", "run"), 20, None),
        (("Model", "run", "inner"), 21, "        def inner(y):\n            return y + x\n"),
        (("Model", "wait"), 25, None),
        (("<lambda>",), 29, "double = lambda x: 2 * x\n"),
    ],
)
def test_a_function_that_was_sent_by_value_is_found(path: Any, first: int, text: str | None):
    found = known(SourceText(PATH, SCRIPT)).find(sent(SCRIPT, *path))
    assert found is not None
    assert (found.name, found.first_line) == (PATH, first)
    if text is not None:
        assert found.text == text


def test_code_that_differs_is_not_found():
    texts = known(SourceText(PATH, SCRIPT))
    assert texts.find(sent(SCRIPT.replace("1 / x", "2 / x"), "bad")) is None
    assert texts.find(sent(f"\n{SCRIPT}", "bad")) is None
    assert texts.find(sent("def other(): pass", "other")) is None


def test_the_cell_that_defined_a_function_is_found_not_the_one_that_replaced_it():
    first, second = "def f(x):\n    return 1 / x\n", "def f(x):\n    return 2 / x\n"
    cells = known(SourceText("In [3]", first, "/tmp/3.py"), SourceText("In [7]", second, "/tmp/7"))
    old, new = cells.find(sent(first, "f")), cells.find(sent(second, "f"))
    assert old is not None
    assert new is not None
    assert (old.name, new.name) == ("In [3]", "In [7]")
    # From a text alone it cannot be told.
    assert cells.locate("f", 2) is None
    assert getattr(cells.locate("f", 2, "/tmp/3.py"), "name", None) == "In [3]"


def test_of_equal_cells_the_latest_counts_and_of_equal_files_none():
    text = "def f(x):\n    return 1 / x\n"
    cells = known(SourceText("In [3]", text, "<c-3>"), SourceText("In [7]", text, "<c-7>"))
    assert getattr(cells.find(sent(text, "f")), "name", None) == "In [7]"
    again = known(SourceText("In [3]", text, "<c>"), SourceText("In [7]", text, "<c>"))
    assert [it.name for it in again.since()] == ["In [7]"]
    files = known(SourceText("/a.py", text), SourceText("/b.py", text))
    assert files.find(sent(text, "f")) is None
    assert files.locate("f", 2) is None


def test_functions_of_cells_with_future_flags_and_await_are_found():
    text = "await thing()\ndef f(x: int) -> int:\n    return 1 / x\n"
    flags = 0x2000
    annotations = sent(text, "f", flags=flags | sources.__future__.annotations.compiler_flag)
    for code in (sent(text, "f", flags=flags), annotations):
        assert getattr(known(SourceText("In [1]", text, "<c>")).find(code), "name", "") == "In [1]"


@pytest.mark.parametrize(
    ("function", "line", "agrees"),
    [
        ("bad", 16, True),
        ("bad", 12, True),
        ("bad", 18, False),
        ("good", 16, False),
        ("wrapped", 8, True),
        ("inner", 22, True),
        ("run", 22, False),
        ("<lambda>", 29, True),
        ("<module>", 5, True),
        ("bad", 10**9, False),
    ],
)
def test_a_frame_is_located_where_name_and_line_agree(function: str, line: int, agrees: bool):
    found = known(SourceText(PATH, SCRIPT)).locate(function, line)
    assert (found is not None) is agrees
    if found is not None:
        assert found.line(line) == SCRIPT.splitlines()[line - 1].strip()


def test_what_does_not_compile_or_is_too_long_is_left_alone():
    texts = known(SourceText(PATH, "def bad(x:\n"), SourceText("/b.py", "x = 1\0"))
    assert texts.locate("bad", 1) is None
    assert texts.locate("<module>", 1) is None
    assert not texts.add(SourceText("/c.py", "#" * (sources.MAX_TEXT + 1)))


def test_texts_are_bounded_and_numbered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sources, "MAX_TEXTS", 30)
    texts = known(*(SourceText(f"In [{i}]", f"x = {i:05}", f"<{i}>") for i in range(10)))
    assert [it.name for it in texts.since()] == ["In [7]", "In [8]", "In [9]"]
    assert [it.name for it in texts.since(texts.added - 1)] == ["In [9]"]
    assert texts.since(texts.added) == []
    assert texts.names() == {*(f"In [{i}]" for i in (7, 8, 9)), "<7>", "<8>", "<9>"}


def test_who_needs_the_first_text_waits_for_it_once():
    texts = ProgramSources()
    began = time.monotonic()
    texts.wait_for_first(0.01)
    texts.wait_for_first(60)
    assert time.monotonic() - began < 30
    texts = ProgramSources()
    found: list[SourceText] = []

    def wait() -> None:
        texts.wait_for_first(60)
        found.extend(texts.since())

    thread = threading.Thread(target=wait)
    thread.start()
    texts.add(SourceText(PATH, SCRIPT))
    thread.join(30)
    assert [it.name for it in found] == [PATH]


class Compiler:
    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        return self.numbers if name == "_filename_map" else None


class Shell:
    """What is read of IPython's shell; the real one runs in tests/cluster/test_tracebacks.py."""

    def __init__(self) -> None:
        self.execution_count = 1
        self.compile = Compiler()

    def run(self, text: str, file: str) -> None:
        lines = text.splitlines(keepends=True)
        linecache.cache[file] = (len(text), None, lines, file)
        self.compile.numbers[file] = self.execution_count
        self.execution_count += 1


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    main: Any = ModuleType("__main__")
    path = tmp_path / "script.py"
    path.write_text("# -*- coding: latin-1 -*-\nname = 'é'\n", encoding="latin-1")
    main.__file__ = str(path)
    os.utime(path, (1, 1))
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(linecache, "cache", {})
    everything = ProgramSources()
    monkeypatch.setattr(own, "program_sources", lambda: everything)
    return path


def test_the_script_is_read_once_as_it_was(script: Any):
    mine = OwnSources()
    (text,) = mine.gather().since()
    assert (text.name, text.text) == (str(script), "# -*- coding: latin-1 -*-\nname = 'é'\n")
    script.write_text("changed")
    linecache.cache["/new"] = (1, 1.0, ["x"], "/new")
    assert mine.gather().added == 1


@pytest.mark.parametrize(
    ("at_start", "now", "known"),
    [
        ("def f():\n    return 1\n", "def f():\n    return 1\n", True),
        ("def f():\n    return 1\n", "# new\ndef f():\n    return 1\n", False),
        ("def f():\n    return 1\n", "def g():\n    return 1\n", False),
        ("x = 1", "x = 1", False),
    ],
)
def test_a_script_that_was_edited_since_its_start_is_left_out(
    script: Any, at_start: str, now: str, known: bool
):
    exec(compile(at_start, script, "exec"), vars(sys.modules["__main__"]))
    script.write_text(now)
    later = time.time() + 60
    os.utime(script, (later, later))
    assert bool(OwnSources().gather().added) is known


def test_cells_are_found_as_they_are_run(script: Any, monkeypatch: pytest.MonkeyPatch):
    shell = Shell()
    monkeypatch.setattr(own, "_shell", lambda: shell)
    mine = OwnSources()
    assert mine.gather().added == 1
    shell.run("x = 1", "/tmp/ipykernel_12/345.py")
    shell.run("y = 1", "<command-7>")
    linecache.cache["<python-input-4>"] = (5, None, ["z = 1\n"], "<python-input-4>")
    linecache.cache["<attrs generated init>"] = (5, None, ["a = 1\n"], "<attrs generated init>")
    linecache.cache["/lib/module.py"] = (5, 3.0, ["b = 1\n"], "/lib/module.py")
    assert [(it.name, it.text) for it in mine.gather().since(1)] == [
        ("In [1]", "x = 1"),
        ("In [2]", "y = 1"),
        ("<python-input-4>", "z = 1\n"),
    ]
    assert mine.gather().added == 4
    # Run again: the text is the same, its number is another.
    shell.run("x = 1", "/tmp/ipykernel_12/345.py")
    assert [it.name for it in mine.gather().since(4)] == ["In [3]"]


def test_nothing_is_read_where_nothing_is_new(script: Any, monkeypatch: pytest.MonkeyPatch):
    mine = OwnSources()
    mine.gather()

    def look(self: OwnSources) -> None:
        pytest.fail("looked again")

    monkeypatch.setattr(OwnSources, "_new", look)
    mine.gather()


def test_a_program_without_a_file_has_no_script(monkeypatch: pytest.MonkeyPatch, script: Any):
    script.unlink()
    assert OwnSources().gather().added == 0
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    assert OwnSources().gather().added == 0
