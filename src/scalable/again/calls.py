"""A call of a task that failed, as it is kept in a run and run again."""

from __future__ import annotations

from typing import Any, NamedTuple


class KeptCall(NamedTuple):
    """What is kept of a failed attempt."""

    call: Call
    #: Sources of its functions that are in no module: name, text and file name of each.
    sources: tuple[tuple[str, str, str], ...] = ()


class Call(NamedTuple):
    """A function and its arguments; an argument may be a call whose result it is."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self) -> Any:
        """Run it, and those among its arguments first."""
        args = [_value(each) for each in self.args]
        return self.function(*args, **{name: _value(each) for name, each in self.kwargs.items()})


def _value(argument: Any) -> Any:
    if isinstance(argument, Call):
        return argument.run()
    if type(argument) in (list, tuple):
        return type(argument)(_value(each) for each in argument)
    return argument
