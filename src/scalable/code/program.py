"""Where the code of the running program is."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})


def program_places(manifest: str | None = None) -> list[str]:
    """Return where the program's own code is; there is at least one place.

    The script or module that was started, else the directory of what a launcher such as
    ``scalable run`` runs, else the working directory, as for a notebook; and the manifest.

    Parameters
    ----------
    manifest
        Path of the manifest, if there is one.
    """
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    # Python follows links to the script, too.
    script = _real(Path(main)) if isinstance(main, str) and main else None
    if script is not None and _is_own(script.parent):
        places = [script]
    elif sys.path and sys.path[0] and _is_own(Path(sys.path[0])):
        places = [Path(sys.path[0])]
    else:
        here = _working_directory()
        places = [] if here is None else [here]
    if manifest is not None:
        places.append(Path(manifest))
    return list(dict.fromkeys(str(_absolute(place)) for place in places))


def _real(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return path


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
