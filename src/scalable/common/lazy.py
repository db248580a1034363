"""Names of a package that are imported at first use."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a module ``__getattr__`` that imports names from the modules that define them.

    Parameters
    ----------
    package : str
        ``__name__`` of the package.
    modules : mapping
        Name → module that defines it.
    """

    def attribute(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = modules[name]
        try:
            value: Any = importlib.import_module(module)
            if module != f"{package}.{name}":  # else the module is meant
                value = getattr(value, name)
        except ImportError as error:
            missing = (error.name or "").partition(".")[0]
            if missing in ("", "scalable", "scalable_runs"):
                raise
            extra = "dask" if module == "scalable.api" else "session"
            raise ImportError(
                f"scalable.{name} needs {missing}, which is not installed: "
                f"pip install 'scalable-otel[{extra}]'",
                name=error.name,
            ) from error
        setattr(sys.modules[package], name, value)
        return value

    return attribute
