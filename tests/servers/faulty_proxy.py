"""A proxy before a real server that answers some requests wrongly, or not at all."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Request:
    """What a client sent.

    Attributes
    ----------
    method, path, headers, body
        As they came; `path` with its query.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    """What a server sent back."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Fault:
    """What happens to some requests.

    Attributes
    ----------
    method, path
        Of requests that it happens to; `path` is a part of theirs. Empty: any.
    times
        To how many requests it happens.
    arrives
        Whether the server gets the request before it is answered.
    status, headers, body
        The answer in place of the server's; status 0 leaves the server's.
    cut
        Close the connection: before an `answer`, or in the `middle` of it.
    change
        Changes a request before it is passed on.
    """

    method: str = ""
    path: str = ""
    times: int = 1
    arrives: bool = False
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: str = ""
    change: Callable[[Request], None] | None = None

    def is_for(self, request: Request) -> bool:
        """Whether it happens to a request."""
        return self.times > 0 and self.method in ("", request.method) and self.path in request.path


class FaultyProxy:
    """Passes requests on to a server on loopback, but for its faults; used as a context manager.

    Its methods are called by the thread of the test; each connection has a thread of its own.

    Attributes
    ----------
    requests
        Everything that was asked for, in order.
    """

    def __init__(self, port: int) -> None:
        #: The server's port.
        self.target = port
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self.requests: list[Request] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                request = Request(self.command, self.path, dict(self.headers.items()), body)
                proxy._answer(self, request)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, **fault: Any) -> Fault:
        """Add a fault; see :class:`Fault`. The first that is for a request happens to it."""
        made = Fault(**fault)
        with self._lock:
            self._faults.append(made)
        return made

    def _answer(self, handler: BaseHTTPRequestHandler, request: Request) -> None:
        with self._lock:
            self.requests.append(request)
            fault = next((one for one in self._faults if one.is_for(request)), Fault())
            fault.times -= 1
        if fault.change is not None:
            fault.change(request)
        answer = Answer(fault.status, fault.headers, fault.body)
        if fault.arrives or not (fault.status or fault.cut == "answer"):
            real = self.forward(request)
            answer = answer if fault.status else real
        handler.close_connection = bool(fault.cut)
        if fault.cut == "answer":
            return
        handler.send_response_only(answer.status)
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        if not any(name.lower() == "content-length" for name in answer.headers):
            handler.send_header("Content-Length", str(len(answer.body)))
        handler.end_headers()
        if request.method != "HEAD":
            length = len(answer.body)
            handler.wfile.write(answer.body[: length // 2 if fault.cut else length])

    def forward(self, request: Request) -> Answer:
        """Return what the server answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.target, timeout=60)
        try:
            # As they came, the host too: signatures contain it.
            connection.putrequest(
                request.method, request.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in request.headers.items():
                connection.putheader(name, value)
            connection.endheaders(request.body or None)
            answer = connection.getresponse()
            body = answer.read()
            hop = {"connection", "keep-alive", "transfer-encoding"}
            headers = {k: v for k, v in answer.getheaders() if k.lower() not in hop}
            return Answer(answer.status, headers, body)
        except OSError:
            return Answer(502, {}, b"")
        finally:
            connection.close()
