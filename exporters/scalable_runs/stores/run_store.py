"""What a place for copies of runs offers: objects, which are bytes by key.

A third party implements :class:`RunStore` to keep runs in a place of its own.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from scalable_runs.stores.base import is_inside


class Object(NamedTuple):
    """An object in a listing.

    Attributes
    ----------
    key
        Its key: names joined by `/`, none of them empty, `.` or `..`.
    size
        In bytes.
    modified
        When it was written, in seconds since the epoch, by the clock of the place.
    version
        Changes when the content does: an ETag, a generation, a time and a size.
    """

    key: str
    size: int
    modified: float
    version: str


def is_key(key: str) -> bool:
    """Whether a text is a key: relative, leading nowhere else, and to be written in UTF-8."""
    # Some storages take a backslash for a slash.
    if not is_inside(key) or "\\" in key:
        return False
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


def checked(key: str) -> str:
    """Return a key.

    Raises
    ------
    OSError
        It is none.
    """
    if not is_key(key):
        raise OSError(errno.EINVAL, f"not the key of an object: {key!r}")
    return key


@dataclass(frozen=True)
class NoOptions:
    """The options of a place that has none."""


class RunStore(ABC):
    """A place of objects: bytes by key.

    Any thread of one process calls it, several at a time; it is not used in a forked child.

    *Keys* are names joined by `/`: text in UTF-8, no name empty, `.` or `..`, and without
    backslash. Their order is that of their UTF-8 bytes, which is the order of `str` in Python. No
    key is a folder of another.

    *Objects* are old or new at any moment, never mixed, and what a call has returned is seen by
    each later call of any program. They have some MB at most.

    *Errors* are OSError: FileNotFoundError where there is no such object or place,
    PermissionError for credentials, ConnectionError and TimeoutError where the place does not
    answer. Their text says what to do and contains no secret. A call returns or raises within a
    bounded time; it may retry inside. After an error of :meth:`put` or :meth:`create` the object
    may be there.

    Examples
    --------
    >>> class Volatile(RunStore):
    ...     location = "volatile"
    ...
    ...     def __init__(self, config=None):
    ...         self._data = {}
    ...
    ...     def get(self, key, start=0, length=None):
    ...         if key not in self._data:
    ...             raise FileNotFoundError(f"there is no object {key}")
    ...         return self._data[key][start:][:length]
    ...
    ...     def put(self, key, data):
    ...         self._data[key] = data
    ...
    ...     def create(self, key, data):
    ...         return self._data.setdefault(key, data) is data
    ...
    ...     def list(self, prefix="", after=""):
    ...         for key in sorted(self._data):
    ...             if key.startswith(prefix) and key > after:
    ...                 data = self._data[key]
    ...                 yield Object(key, len(data), 0.0, str(hash(data)))
    ...
    ...     def delete(self, key):
    ...         self._data.pop(key, None)
    >>> store = Volatile()
    >>> store.put("runs/a", b"1")
    >>> [entry.key for entry in store.list("runs/")]
    ['runs/a']
    """

    #: A dataclass of the options of a place. An instance of it is the one argument of the class.
    #: Options that hold secrets are declared with ``repr=False``.
    Config: ClassVar[type[Any]] = NoOptions

    #: Whether several programs may write one run here. That needs a :meth:`create` of which, of
    #: several calls for one key at the same time, exactly one returns True.
    shared: ClassVar[bool] = False

    #: Names the place for people; contains no secret.
    location: str

    @property
    def address(self) -> str:
        """What the names of runs are joined to, for people; the same as `location` most often."""
        return self.location

    @abstractmethod
    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return the content of an object, or a part of it.

        Parameters
        ----------
        key
            Its key.
        start
            Bytes to skip. At or behind the end: there is nothing to return.
        length
            How many bytes to return at most; None for all.

        Raises
        ------
        FileNotFoundError
            There is no such object.
        OSError
            It cannot be read.
        """

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Make or replace an object as a whole.

        Raises
        ------
        OSError
            It is not known whether the object is old or new.
        """

    @abstractmethod
    def create(self, key: str, data: bytes) -> bool:
        """Make an object only if there is none of that key.

        Returns
        -------
        bool
            False if there is one. It may be this very content, of an earlier call whose answer was
            lost: a caller to whom that matters reads and compares.

        Raises
        ------
        OSError
            It is not known whether the object was made.
        """

    @abstractmethod
    def list(self, prefix: str = "", after: str = "") -> Iterator[Object]:
        """Yield objects in the order of their keys.

        Whatever else is in the place, such as an object whose key is none of the keys above, is
        left out. Objects made, replaced or deleted meanwhile may be yielded or not.

        Parameters
        ----------
        prefix
            What the keys begin with; it need not end at a `/`.
        after
            Only keys that come after this one.

        Raises
        ------
        OSError
            The place cannot be listed.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object, if there is one."""

    def close(self) -> None:  # noqa: B027
        """Release what is held, such as connections. Nothing is called after it."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.location!r})"
