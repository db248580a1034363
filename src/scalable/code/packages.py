"""Where code comes from: the project, an installed distribution, or Python itself.

A module is of the project unless it is part of Python, is installed below a ``site-packages``, or
belongs to an editable installation somewhere else than the function that reaches it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import site
import sys
import sysconfig
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from scalable.code.git_head import commit_of
from scalable.code.model import PACKAGE, Component
from scalable.code.syntax import digest_of
from scalable.common.forks import unlocked_in_forks

#: What records a function is no part of what it computes.
_OURS: Final = frozenset({"scalable", "scalable_runs"})
#: Files of an editable installation that are read at most, and their bytes.
MAX_FILES: Final = 5_000
MAX_BYTES: Final = 64 * 2**20
_INSTALLED: Final = re.compile(r"[\\/](site-packages|dist-packages)[\\/]")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a module comes from."""

    #: "project", "package", "python", or "own" for this package.
    kind: str
    #: The distribution, of a package.
    name: str = ""
    version: str = ""
    #: The directory of an editable installation.
    editable: str = ""


PROJECT: Final = Origin("project")
PYTHON: Final = Origin("python")
OWN: Final = Origin("own")


def origin_of(module: str, file: str | None, root: str = "") -> Origin:
    """Where a module comes from, by its name and its file.

    `root` is the directory of the project; see :func:`root_of`.
    """
    top = module.partition(".")[0]
    if top in _OURS:
        return OWN
    if file is None or file.startswith("<"):
        return PYTHON if top in sys.stdlib_module_names and top != "__main__" else PROJECT
    return _origin_of_file(top, module, _absolute(file), root)


@lru_cache(4096)
def _origin_of_file(top: str, module: str, file: str, root: str) -> Origin:
    installed = _INSTALLED.search(file)
    if installed is not None:
        base = file[: installed.end() - 1]
        name = _distribution_at(base, top, os.path.relpath(file, base))
        return Origin("package", *name) if name else Origin("package", top)
    if any(file.startswith(each) for each in _python_directories()):
        return PYTHON
    if root and _is_below(file, root):
        return PROJECT
    for directory, name, version in _editable_installations():
        if _is_below(file, directory):
            return Origin("package", name, version, directory)
    return PROJECT


def _absolute(file: str) -> str:
    # Links are not followed: an installed file may be a link to a store of files.
    return os.path.normpath(Path.cwd() / file)


def root_of(file: str | None) -> str:
    """The directory of the project that a file belongs to: its repository, else its folder."""
    if file is None or file.startswith("<"):
        return ""
    return _root_of_directory(str(Path(_absolute(file)).parent))


@lru_cache(1024)
def _root_of_directory(directory: str) -> str:
    for each in (Path(directory), *Path(directory).parents):
        if (each / ".git").exists():
            return str(each)
    top = Path(directory)
    while (top / "__init__.py").exists() and top.parent != top:
        top = top.parent
    return str(top)


def _is_below(file: str, directory: str) -> bool:
    return file.startswith(directory.rstrip(os.sep) + os.sep)


@lru_cache(1)
def _python_directories() -> tuple[str, ...]:
    paths = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
    real = [os.path.realpath(each) for each in paths if each]
    return tuple(dict.fromkeys(each + os.sep for each in [*filter(None, paths), *real]))


# -- distributions --------------------------------------------------------------------------------


@lru_cache(1024)
def _distribution_at(base: str, top: str, relative: str) -> tuple[str, str] | None:
    """Name and version of the distribution that installed a file below `base`."""
    with contextlib.suppress(Exception):
        found = metadata.distribution(top)
        if _belongs(found, top, base, relative):
            return str(found.metadata["Name"]), found.version
    wanted = relative.replace(os.sep, "/")
    for place in sorted(Path(base).glob("*-info")):
        with contextlib.suppress(Exception):
            for listing in ("RECORD", "installed-files.txt"):
                path = place / listing
                if path.exists() and f"{wanted}," in path.read_text(errors="replace"):
                    found = metadata.Distribution.at(place)
                    return str(found.metadata["Name"]), found.version
    return None


def _belongs(found: metadata.Distribution, top: str, base: str, relative: str) -> bool:
    """Whether a distribution of a module's name is where the module is.

    A namespace package has the name of one distribution and may have files of several.
    """
    place = getattr(found, "_path", None)
    if place is not None and os.path.realpath(Path(place).parent) != os.path.realpath(base):
        return False
    if (Path(base) / top / "__init__.py").exists() or os.sep not in relative:
        return True
    record = found.read_text("RECORD")
    return record is not None and f"{relative.replace(os.sep, '/')}," in record


@lru_cache(1)
def _editable_installations() -> tuple[tuple[str, str, str], ...]:
    """Directory, name and version of each distribution that is installed in editable mode."""
    found: list[tuple[str, str, str]] = []
    for place in _information_directories():
        with contextlib.suppress(Exception):
            direct: Any = json.loads((place / "direct_url.json").read_text())
            url = urlsplit(direct["url"])
            if direct.get("dir_info", {}).get("editable") and url.scheme == "file":
                distribution = metadata.Distribution.at(place)
                name = str(distribution.metadata["Name"])
                found.append((os.path.realpath(unquote(url.path)), name, distribution.version))
    return tuple(sorted(found, key=lambda each: -len(each[0])))


def _information_directories() -> Iterator[Path]:
    places = [*sys.path, *site.getsitepackages()]
    for place in dict.fromkeys(map(os.path.realpath, filter(None, places))):
        with contextlib.suppress(OSError):
            for path in Path(place).glob("*.dist-info"):
                if (path / "direct_url.json").exists():
                    yield path


# -- editable installations -----------------------------------------------------------------------

_lock: Final = unlocked_in_forks(threading.Lock())
_states: Final[dict[str, tuple[str, str]]] = {}


def editable_state(directory: str) -> tuple[str, str]:
    """Digest of the Python sources of an editable installation, and what it was made of.

    It is found out once in a process.
    """
    with _lock:
        known = _states.get(directory)
    if known is None:
        digest, made_of = _sources_state(directory)
        commit = commit_of(Path(directory))
        known = digest, f"{made_of}, git commit {commit[:12]}" if commit else made_of
        with _lock:
            _states[directory] = known
    return known


def editable_component(name: str) -> Component | None:
    """The component of a distribution that is installed in editable mode here; else None."""
    for directory, found, version in _editable_installations():
        if found == name:
            return package_component(Origin("package", name, version, directory))
    return None


def package_component(origin: Origin) -> Component:
    """The component of a package: its version, or the state of an editable installation."""
    if not origin.editable:
        return Component(PACKAGE, origin.name, digest_of(origin.version), origin.version)
    digest, made_of = editable_state(origin.editable)
    detail = f"{origin.version}, editable, {made_of}"
    return Component(PACKAGE, origin.name, digest_of(f"{origin.version} {digest}"), detail)


def _sources_state(directory: str) -> tuple[str, str]:
    state = hashlib.sha256()
    files = total = 0
    for path in _sources_below(directory):
        with contextlib.suppress(OSError):
            content = path.read_bytes()
            files, total = files + 1, total + len(content)
            if files > MAX_FILES or total > MAX_BYTES:
                return state.hexdigest(), f"the first {files - 1} of its source files"
            name = path.relative_to(directory).as_posix()
            state.update(os.fsencode(name) + b"\0" + hashlib.sha256(content).digest())
    return state.hexdigest(), f"{files} source files"


def _sources_below(directory: str) -> Iterator[Path]:
    for base, folders, names in os.walk(directory):
        folders[:] = sorted(
            each
            for each in folders
            if not each.startswith(".")
            and each not in ("__pycache__", "node_modules", "build", "dist")
            and not Path(base, each, "pyvenv.cfg").exists()
        )
        for name in sorted(names):
            if name.endswith((".py", ".pyx", ".pxd", ".so", ".pyd")):
                yield Path(base, name)
