"""Names in tracebacks: of live exceptions and of texts, only where a source agrees."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any

import pytest

from scalable.code import tracebacks
from scalable.code.sources import ProgramSources, SourceText
from scalable.telemetry.ledger.named_frames import with_names

SCRIPT = """\
def deep(x):
    return 1 / x

def outer(x):
    def nested(y): return deep(y)
    return nested(x)

def chained(x):
    try:
        outer(x)
    except ZeroDivisionError as error:
        raise ValueError("chained") from error

def grouped(x):
    found = []
    for call in (deep, outer):
        try:
            call(x)
        except ZeroDivisionError as error:
            found.append(error)
    raise ExceptionGroup("many", found)

def recursive(x):
    return recursive(x - 1) if x else deep(x)

def multi(x):
    return max(
        1,
        1 / x,
    )

short = lambda x: deep(x)
"""
PATH = "/srv/script.py"


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> ProgramSources:
    sources = ProgramSources()
    monkeypatch.setattr(tracebacks, "program_sources", lambda: sources)
    monkeypatch.setattr(tracebacks, "_located", tracebacks._located.__wrapped__)
    return sources


def without_file(code: CodeType, file: str) -> CodeType:
    """As cloudpickle sends it."""
    return code.replace(
        co_filename=file,
        co_consts=tuple(
            without_file(it, file) if isinstance(it, CodeType) else it for it in code.co_consts
        ),
    )


def raised(name: str, *, file: str = "<dynamic-code>", text: str = SCRIPT) -> BaseException:
    names: dict[str, Any] = {"__name__": "__main__", "__file__": PATH}
    exec(without_file(compile(text, PATH, "exec", dont_inherit=True), file), names)
    with pytest.raises(BaseException) as caught:
        names[name](0)
    error = caught.value
    assert error.__traceback__ is not None
    return error.with_traceback(error.__traceback__.tb_next)


def as_python_has_it(name: str) -> str:
    """What Python itself says of the same function in a real file."""
    return plain(raised(name, file=PATH))


def plain(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    "name", ["deep", "outer", "chained", "grouped", "recursive", "multi", "short"]
)
def test_it_reads_as_if_the_file_were_there(
    name: str, known: ProgramSources, monkeypatch: pytest.MonkeyPatch
):
    import linecache

    known.add(SourceText(PATH, SCRIPT, PATH))
    error = raised(name)
    assert tracebacks.has_unnamed(error)
    text = tracebacks.format_exception(error)
    lines = SCRIPT.splitlines(keepends=True)
    monkeypatch.setitem(linecache.cache, PATH, (len(SCRIPT), None, lines, PATH))
    assert text == as_python_has_it(name)
    assert "<dynamic-code>" not in text
    assert PATH in text


def test_frames_stay_where_no_source_agrees(known: ProgramSources):
    error = raised("chained")
    assert tracebacks.format_exception(error) == plain(error)
    known.add(SourceText(PATH, SCRIPT.replace("1 / x", "1 // x"), PATH))
    text = tracebacks.format_exception(error)
    assert 'File "<dynamic-code>", line 2, in deep' in text
    assert f'File "{PATH}", line 5, in nested\n    def nested(y): return deep(y)' in text


@pytest.mark.parametrize("file", ["/tmp/ipykernel_12/345.py", "<ipython-input-12-0a1b2c>"])
def test_a_kept_name_of_a_cell_is_replaced(file: str, known: ProgramSources):
    """cloudpickle before 3.1.3 keeps it."""
    error = raised("outer", file=file)
    assert tracebacks.has_unnamed(error)
    known.add(SourceText("In [12]", SCRIPT, file))
    known.add(SourceText("In [13]", SCRIPT, "/tmp/ipykernel_12/999.py"))
    text = tracebacks.resolve_text(plain(error))
    assert 'File "In [12]", line 6, in outer\n    return nested(x)\n' in text
    assert file not in text


def test_a_kept_name_of_a_file_stays_and_its_text_is_that_of_the_start(
    known: ProgramSources, tmp_path: Any
):
    file = tmp_path / "script.py"
    file.write_text("\n\n# edited\n")
    known.add(SourceText(str(file), SCRIPT, str(file)))
    text = tracebacks.format_exception(raised("outer", file=str(file)))
    assert f'File "{file}", line 6, in outer\n    return nested(x)' in text
    assert "edited" not in text


def test_the_file_of_the_globals_decides_between_equal_texts(known: ProgramSources):
    for file in ("/a.py", "/b.py"):
        known.add(SourceText(file, SCRIPT, file))
    error = raised("deep")
    assert error.__traceback__ is not None
    names = error.__traceback__.tb_frame.f_globals
    names["__file__"] = "/b.py"
    assert 'File "/b.py", line 2, in deep' in tracebacks.format_exception(error)
    names["__file__"] = "/c.py"
    assert "<dynamic-code>" in tracebacks.format_exception(error)
    # That of a notebook has none.
    del names["__file__"]
    assert "<dynamic-code>" in tracebacks.format_exception(error)
    known.add(SourceText("In [3]", SCRIPT, "/tmp/ipykernel_1/2.py"))
    known.add(SourceText("In [4]", SCRIPT.replace("1 / x", "1 / x  # ?"), "/tmp/ipykernel_1/3.py"))
    text = tracebacks.format_exception(error)
    assert 'File "In [4]", line 2, in deep\n    return 1 / x  # ?\n' in text


def test_a_function_that_a_module_makes_has_the_modules_file(
    known: ProgramSources, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
):
    file = tmp_path / "maker.py"
    file.write_text(SCRIPT)
    error = raised("deep")
    assert error.__traceback__ is not None
    names = error.__traceback__.tb_frame.f_globals
    names |= {"__name__": "maker", "__file__": str(file)}
    # It is not imported here: a file of this name may be another one.
    assert "<dynamic-code>" in tracebacks.format_exception(error)
    module: Any = ModuleType("maker")
    module.__file__ = str(file)
    monkeypatch.setitem(sys.modules, "maker", module)
    assert f'File "{file}", line 2, in deep' in tracebacks.format_exception(error)


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        (
            'Traceback:\n  File "<dynamic-code>", line 2, in deep\nZeroDivisionError: x\n',
            f'Traceback:\n  File "{PATH}", line 2, in deep\n    return 1 / x\n'
            "ZeroDivisionError: x\n",
        ),
        # With the line already.
        (
            '  File "<dynamic-code>", line 2, in deep\n    return 1 / x\n',
            f'  File "{PATH}", line 2, in deep\n    return 1 / x\n',
        ),
        (
            '  | File "x"\n  |   File "<dynamic-code>", line 2, in deep\n  | Error\n',
            f'  | File "x"\n  |   File "{PATH}", line 2, in deep\n  |     return 1 / x\n'
            "  | Error\n",
        ),
        (
            '  File "<dynamic-code>", line 24, in recursive\n'
            "  [Previous line repeated 9 more times]",
            f'  File "{PATH}", line 24, in recursive\n'
            "    return recursive(x - 1) if x else deep(x)\n"
            "  [Previous line repeated 9 more times]",
        ),
        ('  File "<dynamic-code>", line 5, in deep\n', None),
        ('  File "<dynamic-code>", line 2, in other\n', None),
        ('  File "<dynamic-code>", line 99999999999999, in deep\n', None),
        ('  File "<dynamic-code>", lin… [3 characters left out] …in deep\n', None),
        ('  File "/tmp/ipykernel_9/1.py", line 2, in deep\n', None),
        ('  File "<string>", line 2, in deep\n', None),
    ],
)
def test_a_text_is_resolved_where_name_and_line_agree(
    given: str, resolved: str | None, known: ProgramSources
):
    known.add(SourceText(PATH, SCRIPT, PATH))
    assert tracebacks.resolve_text(given) == (given if resolved is None else resolved)


def test_a_stack_of_faulthandler_is_resolved_and_nothing_added(known: ProgramSources):
    known.add(SourceText("In [3]", SCRIPT, "/tmp/ipykernel_1/2.py"))
    stack = """Fatal Python error: Segmentation fault

Current thread 0x00007f6b (most recent call first):
  File "/lib/ctypes.py", line 2 in string_at
  File "<dynamic-code>", line 2 in deep
  File "<dynamic-code>", line 9 in deep
  File "<dynamic-code>", line 6 in outer
"""
    text = tracebacks.resolve_text(stack, add_lines=False)
    assert text.splitlines()[4:] == [
        '  File "In [3]", line 2 in deep',
        '  File "<dynamic-code>", line 9 in deep',
        '  File "In [3]", line 6 in outer',
    ]


def test_hostile_exceptions_and_sources_do_no_harm(
    known: ProgramSources, monkeypatch: pytest.MonkeyPatch
):
    known.add(SourceText(PATH, SCRIPT, PATH))
    error = raised("grouped")
    error.__cause__ = error.__context__ = error
    assert PATH in tracebacks.format_exception(error)

    def broken(*arguments: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(ProgramSources, "find", broken)
    assert "<dynamic-code>" in tracebacks.format_exception(raised("deep"))


@pytest.mark.parametrize("limit", [0, 1, 1000])
def test_the_limit_of_tracebacks_holds(
    limit: int, known: ProgramSources, monkeypatch: pytest.MonkeyPatch
):
    known.add(SourceText(PATH, SCRIPT, PATH))
    error = raised("outer")
    monkeypatch.setattr(sys, "tracebacklimit", limit, raising=False)
    text = tracebacks.format_exception(error)
    assert text.count("File ") == min(limit, 3)
    monkeypatch.delattr(sys, "tracebacklimit")


def record(function: str) -> dict[str, Any]:
    return {
        "code.file.path": "<dynamic-code>",
        "code.function.name": function,
        "code.line.number": 6,
    }


@pytest.mark.parametrize(
    ("given", "changed"),
    [
        (
            {
                "code.file.path": "<dynamic-code>",
                "code.function.name": "outer",
                "code.line.number": 6,
            },
            {"code.file.path": PATH},
        ),
        (
            {
                "code.file.path": "<dynamic-code>",
                "code.function.name": "m.outer",
                "code.line.number": 6,
            },
            {"code.file.path": PATH},
        ),
        (
            {
                "code.file.path": "<dynamic-code>",
                "code.function.name": "deep",
                "code.line.number": 6,
            },
            {},
        ),
        ({"code.file.path": "<dynamic-code>", "code.line.number": "6"}, {}),
        ({"code.file.path": 7, "exception.stacktrace": None}, {}),
        (
            {"code.stacktrace": 'File "<dynamic-code>", line 2, in deep'},
            {"code.stacktrace": f'File "{PATH}", line 2, in deep\n  return 1 / x\n'},
        ),
        ({"body": 'File "<dynamic-code>", line 2, in deep'}, {}),
    ],
    ids=json.dumps,
)
def test_attributes_of_user_code_are_named(
    given: dict[str, Any], changed: dict[str, Any], known: ProgramSources
):
    known.add(SourceText(PATH, SCRIPT, PATH))
    assert with_names(given) == {**given, **changed}


def test_a_line_of_code_has_its_cell(known: ProgramSources):
    line: Callable[..., str] = tracebacks.name_of_code
    cell = compile("def f(): return 1\nf()\n", "/tmp/ipykernel_1/2.py", "exec")
    assert line(cell, 2) == "/tmp/ipykernel_1/2.py"
    known.add(SourceText("In [3]", "def f(): return 1\nf()\n", "/tmp/ipykernel_1/2.py"))
    assert line(cell, 2) == "In [3]"
    assert line(compile("1", "/real.py", "exec"), 1) == "/real.py"
