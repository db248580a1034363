"""Running a script, or a function of a module, in a session."""

from __future__ import annotations

import importlib
import inspect
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scalable.session.errors import SessionError
from scalable.session.session import ScalableSession


def find_workflow(workflow: str) -> Callable[[ScalableSession, Sequence[str]], int]:
    """Return what runs a workflow in a session.

    Parameters
    ----------
    workflow : str
        A script (``steps.py``), run as ``__main__``; or ``module:function``, called with those of
        `session`, `client` and `args` that it has parameters for.

    Returns
    -------
    callable
        Takes the session and the arguments; returns the exit code.

    Raises
    ------
    SessionError
        There is no such script, module or function.
    """
    path = Path(workflow)
    if path.suffix == ".py" or path.is_file():
        if not path.is_file():
            raise SessionError(f"workflow {workflow}: there is no such file")
        return lambda session, arguments: _run_script(path, arguments)
    module, colon, name = workflow.partition(":")
    if not colon or not name or not module:
        raise SessionError(f"workflow {workflow!r} is neither a file nor module:function")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and not module.startswith(error.name):
            raise
        raise SessionError(f"workflow {workflow}: there is no module {module!r}") from None
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise SessionError(f"workflow {workflow}: {module} has no function {name!r}")
    function = found
    return lambda session, arguments: _call(function, session, arguments)


def _run_script(path: Path, arguments: Sequence[str]) -> int:
    before = sys.argv[:], sys.path[:]
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.resolve().parent))
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as stop:
        return exit_code(stop.code)
    finally:
        sys.argv[:], sys.path[:] = before
    return 0


def _call(function: Callable[..., Any], session: ScalableSession, arguments: Sequence[str]) -> int:
    offered = {"session": session, "client": session.client, "args": list(arguments)}
    wanted = inspect.signature(function).parameters
    given = {name: value for name, value in offered.items() if name in wanted}
    try:
        result = function(**given)
    except SystemExit as stop:
        return exit_code(stop.code)
    return exit_code(result) if isinstance(result, int) else 0


def exit_code(code: Any) -> int:
    """What a process would end with: None is 0, a text is printed and is 1."""
    if code is None:
        return 0
    if isinstance(code, int):
        return int(code) & 0xFF
    print(code, file=sys.stderr)
    return 1
