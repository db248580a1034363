"""Objects in an object storage of S3's, Google's or Azure's kind, by the library `obstore`.

`obstore` is fast and not fork-safe: it is imported when a store is made, which only the recorder's
process and commands do, and a store is refused in another process than the one that made it.
"""

from __future__ import annotations

import importlib
import logging
import os
import random
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar
from urllib.parse import urlsplit

from scalable_runs.stores.failures import Failure, failure_of
from scalable_runs.stores.run_store import Object, RunStore, checked, is_key

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

_T = TypeVar("_T")
_LOG: Final = logging.getLogger(__name__)

CONNECT_TIMEOUT: Final = 5.0
#: A request may take half of the time of a call, and no longer than this.
_REQUEST_TIMEOUT: Final = 60.0
#: How long a server is waited for that takes no connection; the endpoint may be misspelt.
_UNREACHABLE: Final = 10.0
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 10.0
#: Servers that ask for less traffic say so in seconds.
_PAUSE_WHEN_ASKED: Final = 1.0
_PAGE: Final = 1000
#: The process whose threads the library has; children that are forked have none of them.
_loaded_in: Final[dict[str, int]] = {}


@dataclass(frozen=True)
class CloudConfig:
    """What all object storages have in common.

    Attributes
    ----------
    bucket_name
        The bucket (Azure: the container), which must exist.
    prefix
        What the keys begin with; a folder in the bucket.
    endpoint
        Address of the service, if it is not the provider's own.
    allow_http
        Whether requests may be sent without TLS. By default, if `endpoint` begins with `http://`.
    timeout
        Seconds after which a call gives up at the latest. It begins its last attempt when half of
        them are over, or after 10 if the server takes no connection.
    """

    bucket_name: str
    prefix: str = ""
    endpoint: str = ""
    allow_http: bool | None = None
    timeout: float = 120.0

    #: Other names of options, as other tools call them.
    SYNONYMS: ClassVar[dict[str, str]] = {"bucket": "bucket_name", "endpoint_url": "endpoint"}

    def __post_init__(self) -> None:
        if not is_key(self.bucket_name) or "/" in self.bucket_name:
            raise ValueError(f"bucket_name must be the name of a bucket: {self.bucket_name!r}")
        if self.folder and not is_key(self.folder):
            raise ValueError(f"prefix must be names joined by `/`: {self.prefix!r}")
        if self.endpoint:
            _shown(self.endpoint)
        _allows_http(self.allow_http, self.endpoint)
        if not 0 < self.timeout < float("inf"):
            raise ValueError(f"timeout must be a number of seconds: {self.timeout!r}")

    @property
    def folder(self) -> str:
        """The prefix without slashes around it."""
        return self.prefix.strip("/")


class CloudObjects(RunStore):
    """Objects in an object storage. Any thread of the process that made it may call it.

    A call that fails for a moment (no answer, 5xx, 408, 409 of a race, 429) is repeated with
    growing pauses; it returns or raises within the `timeout` of its configuration.

    A call of :meth:`create` of which the answer was lost meets its own object when it is
    repeated, and returns False: who cares compares the contents.

    Raises
    ------
    OSError
        The library is not installed.
    ValueError
        A setting cannot be used.
    """

    shared: ClassVar[bool] = True
    #: How an address of this kind of storage begins.
    scheme: ClassVar[str]
    #: Whether a listing comes in the order of keys.
    is_ordered: ClassVar[bool] = True

    def __init__(self, config: CloudConfig) -> None:
        self._bucket = config.bucket_name
        self._above = f"{config.folder}/" if config.folder else ""
        self._timeout = config.timeout
        self._request_timeout = min(_REQUEST_TIMEOUT, config.timeout / 2)
        self._closed = threading.Event()
        self._pid = os.getpid()
        self._address = f"{self.scheme}://{self._bucket}/{config.folder}".rstrip("/")
        self.location = self._address
        endpoint = self._endpoint(config)
        if endpoint:
            self.location += f" at {_shown(endpoint)}"
        self._library = _obstore()
        self._objects = self._opened(config, endpoint)

    @property
    def address(self) -> str:
        """The URL, without the endpoint that :attr:`location` tells as well."""
        return self._address

    def _opened(self, config: CloudConfig, endpoint: str) -> ObjectStore:
        # Each attempt is one request: the attempts are counted and bounded here.
        retries: RetryConfig = {"max_retries": 0}
        client: ClientConfig = {
            "connect_timeout": timedelta(seconds=min(CONNECT_TIMEOUT, self._request_timeout)),
            "timeout": timedelta(seconds=self._request_timeout),
            "allow_http": _allows_http(config.allow_http, endpoint),
        }
        try:
            return self._open(config, endpoint, client, retries)
        except self._library.exceptions.BaseError as error:
            failure = failure_of(str(error))
        raise self._unusable(failure)

    @abstractmethod
    def _open(
        self, config: Any, endpoint: str, client: ClientConfig, retries: RetryConfig
    ) -> ObjectStore:
        """Make the library's store."""

    def _endpoint(self, config: CloudConfig) -> str:
        """Return the address of the service, empty for the provider's own."""
        return config.endpoint

    def _unusable(self, failure: Failure) -> Exception:
        return failure.error(self.location, self._bucket)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Read an object."""
        path = self._above + checked(key)

        def read() -> bytes:
            if length == 0:
                self._library.head(self._objects, path)
                return b""
            if length is not None:
                found = self._library.get_range(self._objects, path, start=start, length=length)
                return bytes(found)
            options: Any = {"range": {"offset": start}} if start else None
            return bytes(self._library.get(self._objects, path, options=options).bytes())

        found = self._call(read)
        if isinstance(found, Failure):
            if found.is_behind_the_end:
                return b""
            if found.is_absent:
                raise FileNotFoundError(f"there is no object {key} in {self.location}")
            raise self._error(found)
        return found

    def put(self, key: str, data: bytes) -> None:
        """Write an object."""
        failure = self._put(key, data, "overwrite")
        if failure is not None:
            raise self._error(failure)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object if it is new."""
        failure = self._put(key, data, "create")
        if failure is None:
            return True
        if failure.is_taken:
            return False
        raise self._error(failure)

    def _put(self, key: str, data: bytes, mode: Any) -> Failure | None:
        path = self._above + checked(key)

        def write() -> None:
            # An object of several parts could not be made only if it is new.
            self._library.put(self._objects, path, data, mode=mode, use_multipart=False)

        return self._call(write)

    def list(self, prefix: str = "", after: str = "") -> Iterator[Object]:
        """List objects, a thousand at a time."""
        found = self._listed(self._above + prefix, self._above + after)
        if not self.is_ordered:
            # What a repeated listing has found again is the same.
            found = iter(sorted({entry.key: entry for entry in found}.values()))
        for entry in found:
            yield entry._replace(key=entry.key[len(self._above) :])

    def _listed(self, prefix: str, after: str) -> Iterator[Object]:
        last = after
        pages, before = None, ""
        while True:
            page, listing = self._page(pages, prefix, last)
            if listing is not pages:
                pages, before = listing, ""
            if not page:
                return
            for meta in page:
                path = meta["path"]
                if self.is_ordered:
                    self._check_order(meta, before)
                    before = path
                    # What is behind the keys that begin with the prefix is not asked for.
                    if path > prefix and not path.startswith(prefix):
                        return
                if path.startswith(prefix) and is_key(path) and path > last:
                    last = path if self.is_ordered else after
                    yield _object(meta)

    def _check_order(self, meta: ObjectMeta, before: str) -> None:
        """Object stores list in the order of keys; folders as some tools mark them look different.

        Such a mark is an empty object whose name ends with a slash, which the library removes.
        """
        if meta["path"] < before and meta["size"]:
            raise OSError(f"{self.location} does not list objects in the order of their keys")

    def _page(self, pages: Any, prefix: str, last: str) -> tuple[Sequence[ObjectMeta], Any]:
        """Return the next page, and the listing that continues behind it."""
        listing = [pages]

        def read() -> Sequence[ObjectMeta]:
            try:
                if listing[0] is None:
                    listing[0] = self._listing(prefix, last)
                return next(listing[0], ())
            except Exception:
                # Another attempt begins behind the last key that was returned.
                listing[0] = None
                raise

        page = self._call(read)
        if isinstance(page, Failure):
            raise self._error(page)
        return page, listing[0]

    def _listing(self, prefix: str, last: str) -> Any:
        # The library lists folders. Where the prefix ends within a name, all keys that begin with
        # it come after what is left of it without its last letter.
        folder = prefix.rpartition("/")[0]
        offset = max(last, prefix[:-1]).rstrip("/")
        return self._library.list(
            self._objects,
            folder or None,
            offset=offset if is_key(offset) else None,
            chunk_size=_PAGE,
        )

    def delete(self, key: str) -> None:
        """Remove an object."""
        path = self._above + checked(key)
        failure = self._call(lambda: self._library.delete(self._objects, path))
        if failure is not None and not failure.is_absent:
            raise self._error(failure)

    def close(self) -> None:
        """End the pauses between attempts; requests that are under way end by themselves."""
        self._closed.set()

    def _error(self, failure: Failure) -> OSError:
        return failure.error(self.location, self._bucket)

    def _call(self, attempt: Callable[[], _T]) -> _T | Failure:
        """Return what an attempt returns, or the failure of the last one.

        It is raised by callers, outside the handler: the library's exception is in no error's
        context.
        """
        if os.getpid() != self._pid:
            raise OSError(f"{self.location} was opened by another process: open it again")
        start = time.monotonic()
        limit = self._timeout - self._request_timeout
        pause = _FIRST_PAUSE
        while True:
            result = self._attempt(attempt)
            if not isinstance(result, Failure) or not result.is_temporary:
                return result
            least = _PAUSE_WHEN_ASKED if result.status in (429, 503) else 0.0
            wait = max(least, random.uniform(pause / 2, pause))
            pause = min(_LONGEST_PAUSE, pause * 2)
            longest = min(limit, _UNREACHABLE) if result.kind == "Connect" else limit
            if time.monotonic() + wait > start + longest or self._closed.wait(wait):
                return result
            _LOG.debug("%s: trying again after %s", self.location, result)

    def _attempt(self, attempt: Callable[[], _T]) -> _T | Failure:
        try:
            return attempt()
        except Exception as error:
            failure, kind = failure_of(str(error)), type(error).__name__
            if any(failure):
                return failure
            # What gives the credentials may raise anything; its text is not passed on.
            return Failure(hint="credentials" * (kind == "UnauthenticatedError"), about=kind)


def _object(meta: ObjectMeta) -> Object:
    # Google has generations beside ETags; other storages have only ETags.
    version = " ".join(part for part in (meta["e_tag"], meta["version"]) if part)
    modified = meta["last_modified"].timestamp()
    return Object(meta["path"], meta["size"], modified, version or str(modified))


def _obstore() -> Any:
    try:
        library = importlib.import_module("obstore")
        importlib.import_module("obstore.store")
    except ImportError:
        pass
    else:
        if _loaded_in.setdefault("pid", os.getpid()) == os.getpid():
            return library
        raise OSError(
            "this process was forked from one that uses object storage, whose library cannot go "
            "on here: start processes by `spawn` or `forkserver`"
        )
    raise OSError("object storage needs a library: pip install 'scalable-otel[store]'")


def _allows_http(allowed: bool | None, endpoint: str) -> bool:
    is_http = endpoint.startswith("http://")
    if is_http and allowed is False:
        raise ValueError("endpoint begins with http://, which allow_http: false forbids")
    return is_http or bool(allowed)


def _shown(endpoint: str) -> str:
    """Return an address as people read it."""
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("endpoint must be an address such as https://storage.example.org:9000")
    if parts.username or parts.password:
        raise ValueError("endpoint must contain no credentials: they have options of their own")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"
