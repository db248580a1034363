"""Object storages on loopback, each with a bucket: S3 (versitygw), Azure (Azurite), Google."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scalable_runs.stores.cloud import CloudObjects
from scalable_runs.stores.objects import AzureObjects, GoogleObjects, S3Objects
from servers.faulty_proxy import Answer, FaultyProxy, Request
from servers.harness import Server, http_get, program

BUCKET = "runs"


class Storage(Server):
    """A storage with the bucket `runs`."""

    #: The class that keeps objects in it.
    kind: type[CloudObjects]

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.ports[0]}"

    def settings(self, prefix: str = "", **changes: Any) -> dict[str, Any]:
        """The options of a store in it."""
        raise NotImplementedError

    def store(self, prefix: str = "", **changes: Any) -> CloudObjects:
        """A store in it."""
        return self.kind(self.kind.Config(**self.settings(prefix, **changes)))

    def health_url(self) -> str:
        return f"{self.endpoint}/health"


class VersityGateway(Storage):
    """S3 over a directory: `files`. The one that survives being killed."""

    name = "versitygw"
    kind = S3Objects
    access_key = "AKIAVERSITY"
    secret_key = "versity%/secret+key"
    region = "us-east-1"

    def __init__(self, directory: Path, *, tls: tuple[Path, Path] | None = None) -> None:
        super().__init__(directory)
        self._program = program(self.name)
        #: Files of a certificate and its key, to speak TLS.
        self._tls = tls
        self.files = directory / "files"
        (self.files / BUCKET).mkdir(parents=True, exist_ok=True)

    @property
    def endpoint(self) -> str:
        return super().endpoint.replace("http:", "https:") if self._tls else super().endpoint

    def is_ready(self) -> bool:
        if not self._tls:
            return super().is_ready()
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.ports[0])) == 0

    def settings(self, prefix: str = "", **changes: Any) -> dict[str, Any]:
        keys = {"access_key": self.access_key, "secret_key": self.secret_key}
        place = {"bucket_name": BUCKET, "prefix": prefix, "endpoint": self.endpoint}
        return {**place, **keys, **changes}

    def environ(self) -> Mapping[str, str]:
        """Variables by which Amazon's tools, and ours, find it."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": self.region,
        }

    def command(self) -> Sequence[str]:
        tls = ["--cert", str(self._tls[0]), "--key", str(self._tls[1])] if self._tls else []
        return [
            "env",
            f"ROOT_ACCESS_KEY_ID={self.access_key}",
            f"ROOT_SECRET_ACCESS_KEY={self.secret_key}",
            *(self._program, "--port", f"127.0.0.1:{self.ports[0]}", "--health", "/health"),
            *("--region", self.region, *tls, "--keep-alive", "--quiet", "posix", str(self.files)),
        ]


class Azurite(Storage):
    """Azure Blob Storage. It writes what it holds to disk later: it is not for being killed."""

    name = "azurite"
    kind = AzureObjects
    #: The account that everybody's Azurite has.
    account = "devstoreaccount1"
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._program = program(self.name)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}/{self.account}"

    def settings(self, prefix: str = "", **changes: Any) -> dict[str, Any]:
        keys = {"account_name": self.account, "account_key": self.key}
        place = {"bucket_name": BUCKET, "prefix": prefix, "endpoint": self.endpoint}
        return {**place, **keys, **changes}

    def command(self) -> Sequence[str]:
        return [
            *(self._program, "--blobHost", "127.0.0.1", "--blobPort", str(self.ports[0])),
            *("--location", str(self.directory / "data"), "--skipApiVersionCheck"),
            *("--disableTelemetry", "--silent"),
        ]

    def is_ready(self) -> bool:
        # There is no page that needs no credentials.
        return http_get(self.endpoint)[0] != 0

    def start(self) -> None:
        is_new = not self.ports
        super().start()
        if is_new:
            self._make_container()

    def _make_container(self) -> None:
        date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        headers = {"x-ms-date": date, "x-ms-version": "2021-08-06"}
        resource = f"/{self.account}/{self.account}/{BUCKET}\nrestype:container"
        lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
        text = "PUT" + "\n" * 12 + lines + resource
        signed = hmac.new(base64.b64decode(self.key), text.encode(), hashlib.sha256).digest()
        headers["Authorization"] = f"SharedKey {self.account}:{base64.b64encode(signed).decode()}"
        headers["Content-Length"] = "0"
        url = f"{self.endpoint}/{BUCKET}?restype=container"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.open(urllib.request.Request(url, method="PUT", headers=headers), timeout=10).close()


class FakeGoogle(Storage):
    """Google Cloud Storage over a directory, reached through a proxy.

    The server takes uploads by Google's JSON interface alone, the library makes them by the XML
    interface: the proxy translates one into the other, with its condition.
    """

    name = "fake-gcs"
    kind = GoogleObjects

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._program = program(self.name)
        self._proxy: FaultyProxy | None = None
        (directory / "files" / BUCKET).mkdir(parents=True, exist_ok=True)

    @property
    def endpoint(self) -> str:
        assert self._proxy is not None
        return self._proxy.endpoint

    def settings(self, prefix: str = "", **changes: Any) -> dict[str, Any]:
        return {"bucket_name": BUCKET, "prefix": prefix, "endpoint": self.endpoint, **changes}

    def command(self) -> Sequence[str]:
        address = f"127.0.0.1:{self.ports[0]}"
        return [
            *(self._program, "-scheme", "http", "-host", "127.0.0.1"),
            *("-port", str(self.ports[0]), "-public-host", address),
            *("-filesystem-root", str(self.directory / "files")),
        ]

    def health_url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}/_internal/healthcheck"

    def start(self) -> None:
        super().start()
        self._proxy = _Translator(self.ports[0]).__enter__()

    def stop(self) -> None:
        if self._proxy is not None:
            self._proxy.__exit__()
            self._proxy = None
        super().stop()


class _Translator(FaultyProxy):
    def forward(self, request: Request) -> Answer:
        # The server tells its interfaces apart by the host.
        request.headers["host"] = f"127.0.0.1:{self.target}"
        if request.method != "PUT":
            return super().forward(request)
        bucket, _, name = request.path.split("?")[0].lstrip("/").partition("/")
        query = {"uploadType": "media", "name": urllib.parse.unquote(name)}
        if generation := request.headers.get("x-goog-if-generation-match"):
            query["ifGenerationMatch"] = generation
        request.method = "POST"
        request.path = f"/upload/storage/v1/b/{bucket}/o?{urllib.parse.urlencode(query)}"
        answer = super().forward(request)
        if answer.status == 200:
            made = json.loads(answer.body)
            answer.headers["ETag"] = made["etag"]
            answer.headers["x-goog-generation"] = made["generation"]
        return answer
