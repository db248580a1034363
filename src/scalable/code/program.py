"""Where the code of the running program is."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})


def program_directories(manifest: str | None = None) -> list[str]:
    """Return the directories that the program's own code is in; there is at least one.

    That of the script or module that was started, else of what a launcher such as ``scalable run``
    runs, else the working directory, as for a notebook; and that of the manifest.

    Parameters
    ----------
    manifest
        Path of the manifest, if there is one.
    """
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    candidates = [
        Path(main).parent if isinstance(main, str) and main else None,
        Path(sys.path[0]) if sys.path and sys.path[0] else None,
    ]
    found = next((each for each in candidates if each is not None and _is_own(each)), None)
    places = [found if found is not None else _working_directory()]
    if manifest is not None:
        places.append(Path(manifest).parent)
    directories = [str(_absolute(place)) for place in places if place is not None]
    return list(dict.fromkeys(directories))


def _is_own(directory: Path) -> bool:
    """Whether a directory is not one of Python, or of installed packages and commands."""
    directory = _absolute(directory)
    if _INSTALLED.intersection(directory.parts) or not directory.is_dir():
        return False
    library = Path(os.__file__).parent
    commands = {Path(sys.executable).parent, Path(sys.prefix, "bin"), Path(sys.prefix, "Scripts")}
    return directory not in commands and library not in (directory, *directory.parents)


def _absolute(directory: Path) -> Path:
    try:
        return directory.absolute()
    except OSError:  # the working directory was deleted
        return directory


def _working_directory() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # it was deleted
        return None
