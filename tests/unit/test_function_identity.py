"""The identity of a function: planted edits are seen and named, cosmetic ones change nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scalable.code.check import check, record_of
from scalable.code.identity import FunctionIdentity, differences, identify

MODEL = '''\
"""A model."""
import functools
import math
import helpers as h
import settings
from dataclasses import dataclass
from enum import Enum
from helpers import clean, scaled, traced

RATE = 0.5
LABELS = ("a", "b")
TABLE = {"low": 1, "high": [2, 3]}
HALF = RATE / 2


class Mode(Enum):
    FAST = 1
    SLOW = 2


@dataclass
class Options:
    depth: int = 3
    name: str = "x"


class Base:
    limit = 10

    def bound(self, x):
        return min(x, self.limit)


class Model(Base):
    kind = "linear"

    def __init__(self, factor):
        self.factor = factor

    def run(self, x):
        """Run it."""
        return self.step(x) * self.factor

    def step(self, x):
        return self.bound(x) + 1

    @property
    def double(self):
        return self.factor * 2

    @staticmethod
    def fixed():
        return 4


def inner_twice(x):
    return twice(x)


def twice(x):
    return 2 * x


square = lambda x: x**2
part = functools.partial(scaled, by=3)


@traced("load")
def load(path, *, mode=Mode.FAST, size=RATE, retries=3):
    """Load a path."""
    # A comment.
    import lazy

    def near(x):
        return x + 1

    options = Options()
    try:
        value = clean(path) + RATE + len(LABELS) + TABLE["low"] + HALF
    except ValueError:
        value = 0
    if (n := near(value)) > 3:
        value = f"{n:.2f} of {path}"
    total = [square(i) for i in range(3)] + [inner_twice(1)]
    more = h.settled(4), settings.DEPTH, Model(3).run(4), part(2), lazy.late(1)
    return value, total, options, more


async def fetch(x):
    return await x
'''
HELPERS = """\
import functools
import deep

LEVEL = 1


def clean(x):
    return deep.wash(x) + LEVEL


def scaled(x, by=1):
    return x * by


def settled(x):
    return x - 1


def traced(name):
    def decorate(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs)

        return wrapper

    return decorate
"""
FILES = {
    "model.py": MODEL,
    "helpers.py": HELPERS,
    "deep.py": "OFFSET = 7\n\n\ndef wash(x):\n    return x + OFFSET\n",
    "settings.py": "import os\n\nDEPTH = 4\nSHARED = 1\n",
    "lazy.py": (
        "from deep import OFFSET\n\nFACTOR = 2\n\n\ndef late(x):\n    return x * FACTOR + OFFSET\n"
    ),
}

Edit = tuple[str, str, str]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    written = Program(tmp_path)
    yield written
    written.forget()


class Program:
    """The files of a program, which are imported afresh for each look."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name, text in FILES.items():
            (directory / name).write_text(text)

    def edit(self, name: str, before: str, after: str) -> None:
        path = self.directory / name
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after, 1))

    def forget(self) -> None:
        for name in FILES:
            sys.modules.pop(name.removesuffix(".py"), None)

    def identify(self, of: str | Callable[[Any], Any] = "load") -> FunctionIdentity:
        import importlib

        self.forget()
        importlib.invalidate_caches()
        model = importlib.import_module("model")
        return identify(getattr(model, of) if isinstance(of, str) else of(model))


PLANTED: dict[str, tuple[Edit, str]] = {
    "operator": (("model.py", '+ TABLE["low"]', '- TABLE["low"]'), "source model.load"),
    "literal": (("model.py", "> 3", "> 4"), "source model.load"),
    "f-string": (("model.py", "{n:.2f}", "{n:.3f}"), "source model.load"),
    "walrus": (("model.py", "(n := near(value))", "(near(value))"), "source model.load"),
    "exception": (("model.py", "except ValueError", "except KeyError"), "source model.load"),
    "keyword-only default": (("model.py", "retries=3", "retries=4"), "source model.load"),
    "nested function": (("model.py", "return x + 1", "return x + 2"), "source model.load"),
    "decorator's argument": (("model.py", '@traced("load")', '@traced("l")'), "source model.load"),
    "order of statements": (("model.py", "    options = Options()\n", ""), "source model.load"),
    "import in a function": (("model.py", "import lazy", "import lazy as lazy2, lazy"), "source"),
    "helper": (("helpers.py", "deep.wash(x) + LEVEL", "deep.wash(x)"), "helper helpers.clean"),
    "helper of a helper": (("deep.py", "x + OFFSET", "x - OFFSET"), "helper deep.wash"),
    "helper by attribute": (("helpers.py", "return x - 1", "return x - 2"), "helpers.settled"),
    "helper of the module": (("model.py", "2 * x", "3 * x"), "helper model.twice"),
    "helper on the way": (("model.py", "return twice(x)", "return twice(x) + 0"), "inner_twice"),
    "lazy import": (("lazy.py", "x * FACTOR", "x + FACTOR"), "helper lazy.late"),
    "decorator": (("helpers.py", "return function(*args, **kwargs)", "return 1"), "helpers.traced"),
    "lambda": (("model.py", "x**2", "x**3"), "helper model.<lambda>"),
    "partial's argument": (("model.py", "by=3", "by=4"), "default by of partial helpers.scaled"),
    "partial's function": (("helpers.py", "return x * by", "return x + by"), "helpers.scaled"),
    "constant": (("model.py", "RATE = 0.5", "RATE = 0.6"), "constant model.RATE"),
    "constant tuple": (("model.py", '("a", "b")', '("a", "c")'), "constant model.LABELS"),
    "constant table": (("model.py", "[2, 3]", "[2, 4]"), "constant model.TABLE"),
    "computed constant": (("model.py", "RATE / 2", "RATE / 3"), "constant model.HALF"),
    "constant elsewhere": (("settings.py", "DEPTH = 4", "DEPTH = 5"), "constant settings.DEPTH"),
    "constant of a helper": (("helpers.py", "LEVEL = 1", "LEVEL = 2"), "constant helpers.LEVEL"),
    "constant far away": (("deep.py", "OFFSET = 7", "OFFSET = 8"), "constant deep.OFFSET"),
    "constant of a lazy import": (("lazy.py", "FACTOR = 2", "FACTOR = 3"), "constant lazy.FACTOR"),
    "default": (("model.py", "RATE = 0.5", "RATE = 0.25"), "default model.load(size)"),
    "method": (("model.py", "self.bound(x) + 1", "self.bound(x)"), "helper model.Model.step"),
    "method of a base class": (("model.py", "min(x", "max(x"), "helper model.Base.bound"),
    "base class": (("model.py", "class Model(Base)", "class Model(Options)"), "class model.Model"),
    "class attribute": (("model.py", '"linear"', '"cubic"'), "class model.Model"),
    "attribute of a base class": (("model.py", "limit = 10", "limit = 9"), "class model.Base"),
    "property": (("model.py", "factor * 2", "factor * 3"), "helper model.Model.double"),
    "static method": (("model.py", "return 4", "return 5"), "helper model.Model.fixed"),
    "dataclass field": (("model.py", "depth: int = 3", "depth: int = 4"), "class model.Options"),
    "enum member": (("model.py", "FAST = 1", "FAST = 3"), "class model.Mode"),
    "import alias": (
        (
            "model.py",
            "from helpers import clean, scaled",
            "from deep import wash as clean\nfrom helpers import scaled",
        ),
        "helper helpers.clean",
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_edit_is_seen_and_named(planted: str, program: Program):
    (name, before, after), named = PLANTED[planted]
    was = program.identify()
    record = json.loads(json.dumps(record_of(was)))
    program.edit(name, before, after)
    now = program.identify()
    assert was.digest != now.digest
    changes = differences(was, now)
    assert any(named in f"{change.kind} {change.name}" for change in changes), changes
    # What is recorded can be compared with the files without running the program.
    program.forget()
    seen = check(record)
    if named == "default model.load(size)":
        assert all(change.what == "unknown" for change in seen if change.kind == "default")
    elif named.startswith("default "):
        named = "constant model.part"
    assert any(named in f"{change.kind} {change.name}" for change in seen), seen


COSMETIC: dict[str, Edit] = {
    "comment": ("model.py", "# A comment.", "# Another comment."),
    "comment at the end of a line": ("model.py", "value = 0\n", "value = 0  # none\n"),
    "docstring": ("model.py", '"""Load a path."""', '"""Load it."""'),
    "docstring of a method": ("model.py", '        """Run it."""\n', ""),
    "docstring of the module": ("model.py", '"""A model."""', '"""The model.\n\nIt is long."""'),
    "blank lines": ("model.py", "    options = Options()\n", "\n\n    options = Options()\n\n"),
    "lines moved": ("model.py", "import functools\n", "\n" * 20 + "import functools\n"),
    "white space": ("model.py", "value = 0", "value   =   0"),
    "indentation": ("model.py", "        return x + 1", "            return x + 1"),
    "trailing white space": ("model.py", "value = 0\n", "value = 0   \n"),
    "line broken": ("model.py", "return min(x, self.limit)", "return min(\n    x, self.limit\n  )"),
    "trailing comma": ("model.py", "min(x, self.limit)", "min(x, self.limit,)"),
    "parentheses": ("model.py", "return 2 * x", "return (2 * x)"),
    "quotes": ("model.py", 'TABLE["low"]', "TABLE['low']"),
    "quotes of an f-string": ("model.py", 'f"{n:.2f} of {path}"', "f'{n:.2f} of {path}'"),
    "text in two parts": ("model.py", '"linear"', '"lin" "ear"'),
    "number in other digits": ("deep.py", "OFFSET = 7", "OFFSET = 0x7"),
    "constant in other words": ("model.py", "RATE = 0.5", "RATE = 1 / 2"),
    "order of imports": (
        "model.py", "import functools\nimport math\n", "import math\nimport functools\n"
    ),
    "order of imported names": ("model.py", "clean, scaled, traced", "traced, scaled, clean"),
    "type comment": ("model.py", "value = 0", "value = 0  # type: int"),
    "pass": ("model.py", "        value = 0\n", "        value = 0\n        pass\n"),
    "unused import": ("model.py", "import math\n", ""),
    "unused helper": ("helpers.py", "def settled", "def other():\n    return 3\n\n\ndef settled"),
    "unused constant": ("settings.py", "SHARED = 1", "SHARED = 2"),
    "function moved within its file": (
        "model.py",
        "def inner_twice(x):\n    return twice(x)\n\n\ndef twice(x):\n    return 2 * x\n",
        "def twice(x):\n    return 2 * x\n\n\ndef inner_twice(x):\n    return twice(x)\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("cosmetic", COSMETIC)
def test_a_cosmetic_edit_changes_nothing(cosmetic: str, program: Program):
    was = program.identify()
    record = record_of(was)
    program.edit(*COSMETIC[cosmetic])
    now = program.identify()
    assert differences(was, now) == ()
    assert was.digest == now.digest
    assert not any(change.is_known for change in check(record))


def test_a_change_has_its_sentence_and_its_diff(program: Program):
    was = program.identify()
    program.edit("deep.py", "x + OFFSET", "x - OFFSET")
    program.edit("settings.py", "DEPTH = 4", "DEPTH = 5")
    helper, constant = differences(was, program.identify())
    place = program.directory / "deep.py"
    assert helper.sentence == f"helper deep.wash differs ({place}:4)"
    assert helper.diff.splitlines() == [
        *("--- before/deep.wash", "+++ after/deep.wash", "@@ -1,2 +1,2 @@", " def wash(x):"),
        *("-    return x + OFFSET", "+    return x - OFFSET"),
    ]
    assert constant.sentence == "constant settings.DEPTH: 4 → 5"


def test_a_new_version_of_a_package_is_seen(tmp_path: Path, program: Program):
    site = tmp_path / "site-packages"
    information = site / "Washing_Lib-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "washing").mkdir()
    (site / "washing" / "__init__.py").write_text("def wash(x):\n    return x\n")
    (information / "RECORD").write_text("washing/__init__.py,,\n")
    metadata = "Metadata-Version: 2.1\nName: Washing-Lib\nVersion: {}\n"
    (information / "METADATA").write_text(metadata.format("1.0"))
    program.edit("deep.py", "OFFSET = 7", "import washing\nOFFSET = 7")
    program.edit("deep.py", "return x + OFFSET", "return washing.wash(x) + OFFSET")
    script = (
        f"import sys; sys.path[:0] = [{str(site)!r}, {str(tmp_path)!r}]\n"
        "import deep, json\nfrom scalable.code.identity import identify\n"
        "print(json.dumps([[c.kind, c.name, c.detail] for c in identify(deep.wash).components]))\n"
    )

    def packages() -> list[Any]:
        ran = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
        return [each for each in json.loads(ran.stdout) if each[0] == "package"]

    assert packages() == [["package", "Washing-Lib", "1.0"]]
    (information / "METADATA").write_text(metadata.format("1.1"))
    assert packages() == [["package", "Washing-Lib", "1.1"]]


def test_what_a_function_closes_over_is_a_part_of_it():
    def make(offset: Any, function: Any) -> Any:
        def shift(x: int) -> int:
            return function(x) + offset

        return shift

    one, other = identify(make(1, abs)), identify(make(2, abs))
    (change,) = differences(one, other)
    assert (change.kind, change.name.split()[0]) == ("closure", "offset")
    assert identify(make(1, abs)).digest == one.digest
    listed = identify(make([1, {"a": (2, None)}], abs))
    assert listed.digest == identify(make([1, {"a": (2, None)}], abs)).digest
    assert listed.digest != identify(make([1, {"a": (3, None)}], abs)).digest


def test_what_cannot_be_seen_is_listed():
    name = "upper"

    def blind(x: Any, module: Any) -> Any:
        import importlib

        exec("pass")
        importlib.import_module(module)
        return getattr(x, name)()

    listed = " ".join(identify(blind).not_covered)
    for wanted in ("exec('pass')", "importlib.import_module(module)", "getattr(x, name)"):
        assert wanted in listed
    assert "blind, line " in listed


class Hostile:
    """Raises at everything that can be asked of it."""

    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(name)

    def _never(self, *args: Any) -> Any:
        raise SystemExit("asked")

    __repr__ = __eq__ = __hash__ = __bool__ = __len__ = __iter__ = __reduce__ = _never  # type: ignore[assignment]


def test_hostile_objects_are_left_alone():
    hostile = Hostile()
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    endless: list[Any] = []
    endless.append(endless)

    def use(x: Any = hostile) -> Any:
        return hostile, deep, endless, x

    found = identify(use)
    assert found.dependable
    assert any(each.name.startswith("hostile of") for each in found.components)
    assert any("the value of deep" in each for each in found.not_covered)


def test_functions_without_a_source():
    built: dict[str, Any] = {}
    exec("def made(x): return x", built)
    made = identify(built["made"])
    assert not made.dependable
    assert any("source of" in each for each in made.not_covered)
    assert identify(len).dependable
    assert identify(len).digest != identify(abs).digest


def test_a_file_that_was_changed_after_its_import_is_not_taken_for_the_code(program: Program):
    import importlib

    program.forget()
    module = importlib.import_module("deep")
    program.edit("deep.py", "x + OFFSET", "x - OFFSET")
    found = identify(module.wash)
    assert found.source is None
    assert found.not_covered == ("the source of deep.wash, which is not known here",)


def test_it_takes_about_a_millisecond(program: Program):
    program.identify()
    load = sys.modules["model"].load
    began = time.process_time()
    for _ in range(10):
        identify(load)
    # Of 40 components; no assertion of the time itself, which depends on the machine.
    assert time.process_time() - began < 10.0


PYTHONS = """
import sys
sys.path[:0] = sys.argv[1:]
import model
from scalable.code.identity import identify
print(identify(model.load).digest, identify(model.Model).digest, identify(model.fetch).digest)
"""
#: Digests of this program's functions, on any Python.
GOLDEN = [
    "c4a4207f85cf66987e545256c23d65d05aab6ad5cd00deabfb3b8b897704fd0e",
    "44438ae97c9871f88843daeb084437bafb50772da0e9982cee76e961f064c8c6",
    "64ec196dd99d1b16194f2ee085aa88fa4465226cd6be28cf7b954264b0d90715",
]


def test_the_digests_are_the_same_on_each_python(program: Program):
    from core import interpreters

    program.identify()
    root = Path(__file__).parents[2]
    paths = [str(program.directory), str(root / "src"), str(root / "exporters")]
    pythons = {sys.version_info[1]: sys.executable, **interpreters()}
    found: dict[int, list[str]] = {}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for minor, python in sorted(pythons.items()):
        command = [python, "-c", textwrap.dedent(PYTHONS), *paths]
        ran = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert ran.returncode == 0, ran.stderr
        found[minor] = ran.stdout.split()
    assert found == dict.fromkeys(found, GOLDEN)
    assert sys.version_info[1] in found
