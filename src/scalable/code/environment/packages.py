"""The installed distributions, read from the names of their metadata's directories.

To parse the metadata of a distribution takes up to a millisecond, and there may be hundreds. The
name of the directory says name and version, as the specification of wheels asks for.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from time import sleep
from typing import Any, Final, NamedTuple, cast

#: Distributions that are recorded, and characters of the origin of one.
MAX_PACKAGES: Final = 5_000
MAX_ORIGIN: Final = 2_000
#: Distributions read before other threads get a chance to run.
_STEP: Final = 20
_WHEEL: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._]*)-([A-Za-z0-9][A-Za-z0-9._+!]*)\.dist-info")
#: The module that a line of RECORD belongs to: a package's directory, or a file.
_TOP: Final = re.compile(r"^([A-Za-z_]\w*)(?:/|\.py,|\.[^/,\n]*\.so,)", re.MULTILINE)
_SEPARATORS: Final = re.compile(r"[-_.]+")
_HEADER: Final = re.compile(r"^(Name|Version):[ \t]*(\S[^\r\n]*)", re.MULTILINE)


class Installed(NamedTuple):
    """The distributions that a module search path has.

    Attributes
    ----------
    packages
        Versions, by the names of distributions (PEP 503).
    origins
        Where those come from that no index provided: a directory, an archive, a repository with its
        commit. A URL may contain credentials.
    conda
        Versions and builds of conda's packages, ``2.1.0=py311_0``, by name.
    """

    packages: dict[str, str]
    origins: dict[str, str]
    conda: dict[str, str]


def installed(path: Iterable[str] | None = None, prefix: str = "") -> Installed:
    """Find what is installed; called by a thread that need not be quick.

    Parameters
    ----------
    path : iterable of str, optional
        Module search path; by default that of this interpreter.
    prefix : str, optional
        Directory of the Python environment, which may be one of conda's.
    """
    found, origins = dict[str, str](), dict[str, str]()
    search = list(sys.path if path is None else path)
    for number, each in enumerate(metadata.distributions(path=search)):
        if number % _STEP == _STEP - 1:
            sleep(0)
        # A broken installation hides no other.
        try:
            name, version = _name_and_version(each)
        except Exception:
            continue
        # The first on the path is the one that is imported.
        if not name or name in found:
            continue
        if len(found) >= MAX_PACKAGES:
            break
        found[name] = version
        origin = _origin(each)
        if origin:
            origins[name] = origin
    return Installed(dict(sorted(found.items())), dict(sorted(origins.items())), _conda(prefix))


def canonical(name: str) -> str:
    """The name of a distribution as PEP 503 normalises it."""
    return _SEPARATORS.sub("-", name).lower()


def _name_and_version(distribution: metadata.Distribution) -> tuple[str, str]:
    # Not public, but there since Python 3.8; without it the metadata is read.
    directory: Any = getattr(distribution, "_path", None)
    match = _WHEEL.fullmatch(getattr(directory, "name", ""))
    if match is not None:
        return canonical(match[1]), match[2]
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    header = dict(_HEADER.findall(text.partition("\n\n")[0]))
    return canonical(header.get("Name", "").strip()), header.get("Version", "").strip()


def _origin(distribution: metadata.Distribution) -> str:
    """Where pip installed it from, by PEP 610; empty if from an index."""
    try:
        text = distribution.read_text("direct_url.json")
        about: Any = json.loads(text) if text else None
    except (OSError, ValueError, UnicodeError):
        return ""
    if not isinstance(about, dict):
        return ""
    about = cast("dict[str, Any]", about)
    url = str(about.get("url", ""))
    version_control, directory = about.get("vcs_info"), about.get("dir_info")
    if isinstance(version_control, dict):
        fields = cast("dict[str, Any]", version_control)
        url = f"{fields.get('vcs', '')}+{url}@{fields.get('commit_id', '')}"
    elif isinstance(directory, dict) and cast("dict[str, Any]", directory).get("editable"):
        url += " (editable)"
    return url[:MAX_ORIGIN]


def _conda(prefix: str) -> dict[str, str]:
    """Conda's own list: a file ``<name>-<version>-<build>.json`` for each package."""
    found: dict[str, str] = {}
    try:
        names = sorted(each.name for each in (Path(prefix) / "conda-meta").glob("*-*-*.json"))
    except OSError:
        names = []
    for each in names[:MAX_PACKAGES] if prefix else ():
        name, version, build = each.removesuffix(".json").rsplit("-", 2)
        found[name] = f"{version}={build}"
    return found


def modules_of(name: str) -> frozenset[str]:
    """Top-level modules of a distribution that is installed here; else what its name suggests."""
    found = {canonical(name).replace("-", "_")}
    try:
        distribution = metadata.distribution(name)
        if text := distribution.read_text("top_level.txt"):
            found.update(text.split())
        else:
            # The list of files is long, and only the first part of each name is wanted.
            record = distribution.read_text("RECORD") or ""
            found.update(_TOP.findall(record))
    except Exception:  # it is not installed here, or broken
        return frozenset(found)
    return frozenset(found)
