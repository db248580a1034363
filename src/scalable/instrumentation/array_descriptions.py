"""Shape, types and size of arrays and tables of known packages; their data is not copied.

A package that is not imported has made no value. A class must be the package's own, not a subclass,
which may have methods of its own; of NumPy's arrays the class's own attributes are read.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final

#: Columns named of a table.
MAX_COLUMNS: Final = 10
#: Numbers of an array that are given.
MAX_NUMBERS: Final = 8
_MAX_TEXT: Final = 100
#: Packages whose types of columns have names that can be read.
_KNOWN: Final = frozenset({"numpy", "pandas", "pyarrow", "polars"})


def described_array(value: Any, hashed: int) -> dict[str, Any] | None:
    """What is known of an array or table; None if it is none that is known.

    Parameters
    ----------
    value
        Any value.
    hashed : int
        Bytes of which a digest is made at most.
    """
    numpy = sys.modules.get("numpy")
    kind = type(value)
    if numpy is not None:
        if issubclass(kind, numpy.ndarray):
            return _ndarray(value, numpy, hashed)
        if issubclass(kind, numpy.generic) and getattr(numpy, kind.__name__, None) is kind:
            return _scalar(value)
    for package, name, describe in _TABLES:
        module = sys.modules.get(package)
        if module is not None and vars(module).get(name) is kind:
            return describe(value)
    return None


def _ndarray(value: Any, numpy: Any, hashed: int) -> dict[str, Any]:
    array: Any = numpy.ndarray
    shape, dtype = array.shape.__get__(value), array.dtype.__get__(value)
    size = int(array.nbytes.__get__(value))
    found = {"shape": list(shape), "dtype": _dtype(dtype), "size_bytes": size}
    if type(value) is not array or dtype.hasobject:
        return found
    if value.size <= MAX_NUMBERS and (dtype.kind in "biu" or _is_finite(value, numpy)):
        found |= {"kind": "json", "value": value.tolist()}
    elif size <= hashed and value.flags.c_contiguous:
        data = value.reshape(-1).view(numpy.uint8)
        found["digest"] = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return found


def _is_finite(value: Any, numpy: Any) -> bool:
    return value.dtype.kind == "f" and bool(numpy.isfinite(value).all())


def _scalar(value: Any) -> dict[str, Any]:
    if value.dtype.kind in "bi" or _is_finite(value, sys.modules["numpy"]):
        return {"kind": "json", "value": value.item()}
    return {"description": str(value)[:_MAX_TEXT]} if value.dtype.kind in "ufcMmUS" else {}


def _frame(value: Any) -> dict[str, Any]:
    """A data frame of pandas."""
    found: dict[str, Any] = {"shape": list(value.shape)}
    types: list[Any] = list(value.dtypes)
    found["dtype"] = _columns(value.columns, types)
    if all(_is_known(each) for each in types):
        found["size_bytes"] = int(value.memory_usage(deep=False).sum())
    return found


def _series(value: Any) -> dict[str, Any]:
    """A series or an index of pandas."""
    found: dict[str, Any] = {"shape": list(value.shape), "dtype": _dtype(value.dtype)}
    if _is_known(value.dtype):
        found["size_bytes"] = int(value.nbytes)
    return found


def _arrow_table(value: Any) -> dict[str, Any]:
    schema = value.schema
    return {
        "shape": [value.num_rows, value.num_columns],
        "dtype": _columns(schema.names, schema.types),
        "size_bytes": int(value.nbytes),
    }


def _arrow_array(value: Any) -> dict[str, Any]:
    return {"shape": [len(value)], "dtype": _dtype(value.type), "size_bytes": int(value.nbytes)}


def _polars_frame(value: Any) -> dict[str, Any]:
    return {
        "shape": list(value.shape),
        "dtype": _columns(value.columns, value.dtypes),
        "size_bytes": int(value.estimated_size()),
    }


def _polars_series(value: Any) -> dict[str, Any]:
    size = int(value.estimated_size())
    return {"shape": [value.len()], "dtype": _dtype(value.dtype), "size_bytes": size}


def _tensor(value: Any) -> dict[str, Any]:
    size = int(value.numel()) * int(value.element_size())
    return {"shape": list(value.shape), "dtype": _dtype(value.dtype), "size_bytes": size}


def _labelled(value: Any) -> dict[str, Any]:
    """A data array or a dataset of xarray: the lengths of its dimensions."""
    sizes: dict[Any, Any] = dict(value.sizes)
    names = [f"{_label(name)}: {length}" for name, length in islice(sizes.items(), MAX_COLUMNS)]
    return {"shape": list(sizes.values()), "description": ", ".join(names)}


def _columns(names: Iterable[Any], types: Iterable[Any]) -> str:
    """Names and types of columns."""
    pairs = list(zip(names, types, strict=False))
    shown = [f"{_label(name)}: {_dtype(each)}" for name, each in pairs[:MAX_COLUMNS]]
    if len(pairs) > MAX_COLUMNS:
        shown.append(f"… {len(pairs) - MAX_COLUMNS:,} more")
    return ", ".join(shown)


def _label(name: Any) -> str:
    text = str(name) if type(name) in (str, int) else f"<{type(name).__qualname__}>"
    return text[:_MAX_TEXT].encode("utf-8", "backslashreplace").decode("utf-8")


def _dtype(found: Any) -> str:
    """Name of the type of an array's items."""
    return (str(found) if _is_known(found) else type(found).__qualname__)[:_MAX_TEXT]


def _is_known(dtype: Any) -> bool:
    package = type(dtype).__module__.partition(".")[0]
    return package in _KNOWN or package == "torch"


_TABLES: Final[tuple[tuple[str, str, Callable[[Any], dict[str, Any]]], ...]] = (
    ("pandas", "DataFrame", _frame),
    ("pandas", "Series", _series),
    ("pandas", "Index", _series),
    ("pyarrow", "Table", _arrow_table),
    ("pyarrow", "RecordBatch", _arrow_table),
    ("pyarrow", "Array", _arrow_array),
    ("pyarrow", "ChunkedArray", _arrow_array),
    ("polars", "DataFrame", _polars_frame),
    ("polars", "Series", _polars_series),
    ("torch", "Tensor", _tensor),
    ("xarray", "DataArray", _labelled),
    ("xarray", "Dataset", _labelled),
)
