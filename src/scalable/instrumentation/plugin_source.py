"""Plugins that are pickled as source text, for processes that may lack this package.

Dask unpickles the plugins of a new worker or nanny outside of any ``try``: a class that cannot be
imported there would keep the worker from starting.
"""

from __future__ import annotations

import textwrap
from typing import Any, Final

_SOURCE: Final = """
try:
    from scalable.common.forks import no_fork
    with no_fork:
        from {module} import {name} as Plugin
except Exception as error:
{fallback}
plugin = Plugin(*{arguments!r})
"""


def reduced(plugin: type, fallback: str, arguments: tuple[Any, ...] = ()) -> tuple[Any, ...]:
    """What ``__reduce__`` of a plugin returns.

    Parameters
    ----------
    plugin : type
        The class.
    fallback : str
        Python statements that define `Plugin` where the class cannot be imported because of
        `error`.
    arguments : tuple
        Arguments that the class is made with: plain values.
    """
    source = _SOURCE.format(
        module=plugin.__module__,
        name=plugin.__name__,
        arguments=arguments,
        fallback=textwrap.indent(textwrap.dedent(fallback).strip(), "    "),
    )
    return eval, (f"(lambda names: (exec({source!r}, names), names['plugin'])[1])({{}})",)
