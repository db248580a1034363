"""Runs a script, or a function of a module, in a session."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Final

from scalable.manifest.errors import SessionError
from scalable.session.session import ScalableSession


def find_workflow(workflow: str) -> Callable[[ScalableSession, Sequence[str]], None]:
    """Return the function that runs a workflow, with the session and the arguments.

    A workflow is a script, which runs as ``__main__``, or ``module:function``, which is called with
    those of `session`, `client` and `args` that it has parameters for. Its directory is added to
    ``sys.path`` here, before the start: processes that are spawned get the path of that moment.
    """
    path = Path(workflow)
    if path.is_dir():
        raise SessionError(f"workflow {workflow} is a directory: name a script or module:function")
    if path.suffix == ".py" or path.is_file():
        if not path.is_file():
            raise SessionError(f"workflow {workflow}: there is no such file")
        _put_on_path(path.resolve().parent)
        return lambda session, arguments: _run_script(path, arguments)
    module, colon, name = workflow.partition(":")
    if not colon or not name or not module:
        raise SessionError(
            f"workflow {workflow!r} is neither a file nor module:function, such as steps.py or "
            "package.steps:main"
        )
    _put_on_path(Path.cwd())
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


def own_frames(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the frames above the workflow."""
    own = trace
    while own is not None and own.tb_frame.f_code.co_filename in _LEADING:
        own = own.tb_next
    return own if own is not None else trace


def _put_on_path(directory: Path) -> None:
    place = str(directory)
    if sys.path[:1] != [place]:
        sys.path.insert(0, place)


def _run_script(path: Path, arguments: Sequence[str]) -> None:
    source = path.read_bytes()
    main: Any = ModuleType("__main__")
    main.__file__ = str(path)
    if b"__main__" not in source:
        # A restarted worker process imports the main module and would run the script again;
        # multiprocessing does not import a module of this name.
        main.__spec__ = ModuleSpec("__main__", None)
    before = sys.argv[:], sys.modules["__main__"]
    sys.argv = [str(path), *arguments]
    sys.modules["__main__"] = main
    try:
        exec(compile(source, str(path), "exec"), main.__dict__)
    finally:
        sys.argv[:], sys.modules["__main__"] = before


def _call(function: Callable[..., Any], session: ScalableSession, arguments: Sequence[str]) -> None:
    offered = {"session": session, "client": session.client, "args": list(arguments)}
    wanted = inspect.signature(function).parameters
    function(**{name: value for name, value in offered.items() if name in wanted})


#: Files of the frames above the workflow.
_LEADING: Final = frozenset({__file__, str(Path(__file__).parents[1] / "cli" / "run.py")})


def exit_code(code: Any) -> int:
    """Return the exit code for an argument of sys.exit(); a text is printed and gives 1."""
    if code is None:
        return 0
    if isinstance(code, int):
        return int(code) & 0xFF
    print(code, file=sys.stderr)
    return 1
