"""An S3 storage that is killed, paused, overloaded, cut off and misconfigured."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from scalable_runs.stores import RunStore
from scalable_runs.stores.cloud import CloudObjects
from scalable_runs.stores.objects import AzureObjects, GoogleObjects, S3Objects
from servers.faulty_proxy import FaultyProxy, Request
from servers.harness import free_ports
from servers.storages import VersityGateway

XML = {"Content-Type": "application/xml"}


@pytest.fixture
def proxy(versitygw: VersityGateway, faulty: Callable[..., FaultyProxy]) -> FaultyProxy:
    return faulty(versitygw)


@pytest.fixture
def store(versitygw: VersityGateway, proxy: FaultyProxy) -> Iterator[CloudObjects]:
    """A store that reaches its storage through the proxy."""
    made = versitygw.store(f"faults/{uuid.uuid4().hex}", endpoint=proxy.endpoint, timeout=20.0)
    yield made
    made.close()


# -- the server -----------------------------------------------------------------------------------


def test_a_storage_that_is_killed_and_started_again_has_every_object_once(
    start_s3: Callable[[], VersityGateway],
):
    server = start_s3()
    store = server.store("kills", timeout=60.0)
    keys = [f"chunks/{number:03}" for number in range(120)]
    unsure: list[str] = []
    reached = {number: threading.Event() for number in (20, 60, 100)}

    def write() -> None:
        for number, key in enumerate(keys):
            if number in reached:
                reached[number].set()
            if not store.create(key, key.encode()):
                unsure.append(key)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        for event in reached.values():
            assert event.wait(60)
            server.kill()
            server.start()
        writing.result()
    # Who is told that an object exists compares: it is its own, of an answer that was lost.
    assert all(store.get(key) == key.encode() for key in unsure)
    assert [entry.key for entry in store.list("chunks/")] == keys
    assert all(store.get(key) == key.encode() for key in keys)


def test_a_storage_that_pauses_is_waited_for(start_s3: Callable[[], VersityGateway]):
    server = start_s3()
    store = server.store("pauses")
    server.pause()
    with ThreadPoolExecutor(2) as pool:
        made = pool.submit(store.create, "a", b"1")
        listed = pool.submit(lambda: list(store.list("nothing")))
        threading.Event().wait(float(os.environ.get("TESTS_PAUSE", "1")))
        server.resume()
        assert made.result() is True
        assert listed.result() == []
    assert store.get("a") == b"1"


def test_a_storage_that_never_answers_ends_in_a_sentence(start_s3: Callable[[], VersityGateway]):
    server = start_s3()
    store = server.store("pauses", timeout=1.0)
    server.pause()
    calls: list[Callable[[], Any]] = [
        lambda: store.get("a"),
        lambda: store.put("a", b"1"),
        lambda: store.create("a", b"1"),
        lambda: list(store.list()),
        lambda: store.delete("a"),
    ]
    with ThreadPoolExecutor(len(calls)) as pool:
        errors = [future.exception() for future in [pool.submit(call) for call in calls]]
    for error in errors:
        assert isinstance(error, TimeoutError)
        assert "does not answer in time" in str(error)


def test_a_certificate_is_trusted_if_its_authority_is_named(
    servers: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    authority, certificate = (tmp_path / name for name in ("authority.pem", "certificate.pem"))
    key = certificate.with_suffix(".key")
    certified(authority, authority.with_suffix(".key"), "CA:TRUE")
    signed = ("-CA", authority, "-CAkey", authority.with_suffix(".key"))
    certified(certificate, key, "CA:FALSE", "-addext", "subjectAltName=IP:127.0.0.1", *signed)
    server: VersityGateway = servers(VersityGateway, tls=(certificate, key))
    with pytest.raises(ConnectionError, match=r"the certificate of .* is not trusted: name its"):
        server.store().put("a", b"1")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
    store = server.store()
    store.put("a", b"1")
    assert store.get("a") == b"1"


def certified(path: Path, key: Path, kind: str, *more: str | Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", f"/CN={path.stem}"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-keyout", key, "-out", path),
            *("-addext", f"basicConstraints=critical,{kind}", *more),
        ],
        check=True,
        capture_output=True,
    )


def test_where_tls_is_not_spoken_the_sentence_says_so(versitygw: VersityGateway):
    store = versitygw.store(endpoint=versitygw.endpoint.replace("http:", "https:"))
    refused(store, ConnectionError, "does not speak TLS: write http:// in endpoint")


def test_where_nobody_listens_the_sentence_names_the_place():
    (port,) = free_ports(1)
    endpoint = f"http://127.0.0.1:{port}"
    store = s3(endpoint=endpoint, timeout=1.0)
    with pytest.raises(ConnectionError, match=rf"s3://runs at {endpoint} cannot be reached"):
        store.put("a", b"1")
    store = s3(endpoint="http://no-such-host.invalid", timeout=1.0)
    with pytest.raises(ConnectionError, match="there is no host of the name"):
        store.put("a", b"1")


def test_close_ends_the_waiting_for_another_attempt():
    (port,) = free_ports(1)
    store = s3(endpoint=f"http://127.0.0.1:{port}", timeout=1000.0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.put, "a", b"1")
        store.close()
        with pytest.raises(ConnectionError):
            waiting.result()


# -- the network ----------------------------------------------------------------------------------


def test_an_overloaded_storage_is_asked_again(store: CloudObjects, proxy: FaultyProxy):
    headers = {"Retry-After": "1"}
    proxy.add(method="PUT", status=503, headers=headers)
    proxy.add(method="PUT", status=500)
    proxy.add(method="GET", status=429, headers=headers)
    proxy.add(method="DELETE", status=502)
    assert store.create("a", b"1") is True
    assert store.get("a") == b"1"
    store.delete("a")
    proxy.add(path="list-type", status=503, headers=headers)
    assert list(store.list()) == []


def test_an_upload_that_arrived_and_was_answered_500_is_found_by_comparing(
    store: CloudObjects, proxy: FaultyProxy
):
    proxy.add(method="PUT", status=500, arrives=True)
    assert store.create("a", b"mine") is False
    assert store.get("a") == b"mine"
    proxy.add(method="PUT", status=500, arrives=True)
    store.put("a", b"again")
    assert store.get("a") == b"again"


@pytest.mark.parametrize("arrives", [True, False])
def test_an_upload_whose_connection_is_cut_is_repeated(
    store: CloudObjects, proxy: FaultyProxy, arrives: bool
):
    proxy.add(method="PUT", cut="answer", arrives=arrives)
    assert store.create("a", b"mine") is not arrives
    assert store.get("a") == b"mine"


def test_what_was_cut_in_the_middle_is_read_again_as_a_whole(
    store: CloudObjects, proxy: FaultyProxy
):
    data = os.urandom(300_000)
    store.put("a", data)
    proxy.add(method="GET", cut="middle", times=2)
    assert store.get("a") == data
    proxy.add(method="GET", cut="middle")
    assert store.get("a", 1000, 200_000) == data[1000:201_000]


def test_a_listing_that_is_cut_goes_on_behind_the_last_key(
    store: CloudObjects, proxy: FaultyProxy, versitygw: VersityGateway
):
    folder = versitygw.files / "runs" / store.location.split("/", 3)[3].split(" ")[0]
    folder.mkdir(parents=True)
    keys = [f"{number:05}" for number in range(1500)]
    for key in keys:
        (folder / key).write_bytes(b"x")
    found = store.list()
    first = next(found)
    proxy.add(path="list-type", cut="middle")
    proxy.add(path="list-type", status=500)
    assert [first.key, *(entry.key for entry in found)] == keys
    assert sum("list-type" in request.path for request in proxy.requests) == 4


def test_a_race_of_two_creators_is_asked_again(store: CloudObjects, proxy: FaultyProxy):
    """S3 answers 409 while another request for the same key is under way: nobody has won yet."""
    conflict = b"<Error><Code>ConditionalRequestConflict</Code></Error>"
    proxy.add(method="PUT", status=409, headers=XML, body=conflict)
    assert store.create("a", b"1") is True
    proxy.add(method="PUT", status=409, headers=XML, body=conflict)
    assert store.create("a", b"2") is False
    assert store.get("a") == b"1"


# -- the settings ---------------------------------------------------------------------------------


def s3(**settings: Any) -> S3Objects:
    keys = {"access_key": "a-key", "secret_key": "a-secret"}
    return S3Objects(S3Objects.Config(**{"bucket_name": "runs", **keys, **settings}))


def refused(store: RunStore, kind: type[OSError], said: str) -> None:
    """Every method raises that."""
    calls: list[Callable[[], Any]] = [
        lambda: store.get("a"),
        lambda: store.put("a", b"1"),
        lambda: store.create("a", b"1"),
        lambda: list(store.list()),
        lambda: store.delete("a"),
    ]
    for call in calls:
        with pytest.raises(kind, match=said):
            call()


def test_wrong_credentials_are_named(versitygw: VersityGateway):
    store = versitygw.store(access_key="AKIASOMEBODY")
    refused(store, PermissionError, "does not know the access key: correct access_key")
    store = versitygw.store(secret_key="wrong")
    refused(store, PermissionError, "refuses the secret key: correct secret_key")


def test_a_missing_bucket_is_named(versitygw: VersityGateway):
    store = versitygw.store(bucket_name="elsewhere")
    refused(store, FileNotFoundError, r"there is no bucket elsewhere in .*: make it first")


def test_another_region_is_named(versitygw: VersityGateway):
    store = versitygw.store(region="eu-west-1")
    refused(store, OSError, "is in another region: set region to us-east-1")


def test_a_clock_of_20_minutes_ago_is_named(store: CloudObjects, proxy: FaultyProxy):
    def turn_back(request: Request) -> None:
        late = datetime.now(UTC) - timedelta(minutes=20)
        for name in request.headers:
            if name.lower() == "x-amz-date":
                request.headers[name] = late.strftime("%Y%m%dT%H%M%SZ")
            if name.lower() == "date":
                request.headers[name] = format_datetime(late, usegmt=True)

    proxy.add(times=100, change=turn_back)
    refused(store, PermissionError, "the clocks of this host and .* differ: set this host's")


def test_no_text_of_a_store_contains_a_secret(
    versitygw: VersityGateway, caplog: pytest.LogCaptureFixture
):
    secrets = ["the-secret-key", "the-session-token", "c2lnbmF0dXJl"]
    caplog.set_level("DEBUG")
    keys = {"access_key": "AKIASOMEBODY", "secret_key": "the-secret-key"}
    connection = "AccountName=a;AccountKey=c2lnbmF0dXJl;BlobEndpoint=http://127.0.0.1:1"
    stores = [
        versitygw.store(**keys, session_token="the-session-token", timeout=1.0),
        AzureObjects(
            AzureObjects.Config(
                "runs",
                endpoint=f"{versitygw.endpoint}/account",
                account_name="account",
                sas_token="sv=2021&sig=c2lnbmF0dXJl",
                timeout=1.0,
            )
        ),
        AzureObjects(AzureObjects.Config("runs", connection_string=connection, timeout=1.0)),
        GoogleObjects(GoogleObjects.Config("runs", endpoint=versitygw.endpoint, timeout=1.0)),
    ]
    texts = [repr(S3Objects.Config("runs", **keys, session_token="the-session-token"))]
    texts.append(repr(AzureObjects.Config("runs", connection_string=connection)))
    for store in stores:
        texts += [repr(store), store.location, repr(vars(store))]
        for call in (store.get, store.put, store.delete, lambda _: next(store.list())):  # noqa: B023
            with pytest.raises(OSError) as caught:
                call(*("a", b"1")[: 2 if call == store.put else 1])
            assert caught.value.__context__ is None
            # Of our own functions, with what their variables held.
            frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
            texts += frames.stack.format()[1:]
            texts.append(str(caught.value))
    texts.append(caplog.text)
    for secret in secrets:
        assert not any(secret in text for text in texts), secret


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bucket_name": ""}, "bucket_name must be the name of a bucket"),
        ({"bucket_name": "a/b"}, "bucket_name must be the name of a bucket"),
        ({"prefix": "a/../b"}, "prefix must be names joined by"),
        ({"endpoint": "127.0.0.1:9000"}, "endpoint must be an address such as https://"),
        ({"endpoint": "http://user:word@h:1"}, "endpoint must contain no credentials"),
        ({"endpoint": "http://h:1", "allow_http": False}, "which allow_http: false forbids"),
        ({"secret_key": ""}, "access_key and secret_key go together"),
    ],
)
def test_settings_that_cannot_be_are_named(settings: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        s3(**settings)


# -- credentials from elsewhere -------------------------------------------------------------------


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in list(os.environ):
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "STORAGE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".aws").mkdir()
    return tmp_path / ".aws"


def works(store: RunStore) -> None:
    key = f"credentials/{uuid.uuid4().hex}"
    assert store.create(key, b"1")
    assert store.get(key) == b"1"


def test_credentials_come_from_the_environment(
    versitygw: VersityGateway, no_credentials: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, value in versitygw.environ().items():
        monkeypatch.setenv(name, value)
    works(S3Objects(S3Objects.Config("runs")))


@pytest.mark.parametrize("named", [True, False])
def test_credentials_come_from_a_profile(
    versitygw: VersityGateway,
    no_credentials: Path,
    monkeypatch: pytest.MonkeyPatch,
    named: bool,
):
    section = "science" if named else "default"
    in_config = "profile science" if named else "default"
    (no_credentials / "credentials").write_text(
        f"[{section}]\naws_access_key_id = {versitygw.access_key}\n"
        f"aws_secret_access_key = {versitygw.secret_key}\n"
    )
    (no_credentials / "config").write_text(
        f"[{in_config}]\nregion = {versitygw.region}\nendpoint_url = {versitygw.endpoint}\n"
        "s3 =\n  max_concurrent_requests = 20\n"
    )
    if named:
        works(S3Objects(S3Objects.Config("runs", profile="science")))
        monkeypatch.setenv("AWS_PROFILE", "science")
    works(S3Objects(S3Objects.Config("runs")))


def test_credentials_come_from_the_role_of_the_instance(
    versitygw: VersityGateway,
    proxy: FaultyProxy,
    no_credentials: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    roles = "/latest/meta-data/iam/security-credentials/"
    keys = {
        "AccessKeyId": versitygw.access_key,
        "SecretAccessKey": versitygw.secret_key,
        "Expiration": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
        "Token": "",
    }
    proxy.add(path="/latest/api/token", times=9, status=200, body=b"token")
    proxy.add(path=f"{roles}role", times=9, status=200, body=json.dumps(keys).encode())
    proxy.add(path=roles, times=9, status=200, body=b"role")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", proxy.endpoint)
    works(S3Objects(S3Objects.Config("runs", endpoint=versitygw.endpoint)))
    assert [request.path for request in proxy.requests][1:] == [roles, f"{roles}role"]


def test_what_is_configured_goes_before_what_the_environment_says(
    versitygw: VersityGateway, no_credentials: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASOMEBODY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of another")
    works(versitygw.store())


def test_where_there_are_no_credentials_the_sentence_says_so(
    versitygw: VersityGateway, no_credentials: Path, monkeypatch: pytest.MonkeyPatch
):
    (port,) = free_ports(1)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{port}")
    store = S3Objects(S3Objects.Config("runs", endpoint=versitygw.endpoint))
    refused(store, PermissionError, "no credentials for .* were found: set them")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(PermissionError, match="no credentials for S3 were found"):
        S3Objects(S3Objects.Config("runs", endpoint=versitygw.endpoint))
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(PermissionError, match="there is no profile nobody"):
        S3Objects(S3Objects.Config("runs", endpoint=versitygw.endpoint))
    (no_credentials / "config").write_text("[profile sso]\nsso_session = work\n")
    with pytest.raises(PermissionError, match="the profile sso gets its credentials by a role"):
        S3Objects(S3Objects.Config("runs", profile="sso"))


# -- what others have put there -------------------------------------------------------------------

_ENTRY = (
    "<Contents><Key>{}</Key><Size>{}</Size><ETag>&quot;e&quot;</ETag>"
    "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
)


def listing(*entries: tuple[str, int]) -> bytes:
    inside = "".join(_ENTRY.format(*entry) for entry in entries)
    return f"<ListBucketResult><IsTruncated>false</IsTruncated>{inside}</ListBucketResult>".encode()


def listed(versitygw: VersityGateway, proxy: FaultyProxy, *entries: tuple[str, int]) -> list[str]:
    proxy.add(path="list-type", status=200, headers=XML, body=listing(*entries))
    store = versitygw.store("p", endpoint=proxy.endpoint)
    return [entry.key for entry in store.list()]


@pytest.mark.parametrize("key", ["p/../../etc/passwd", "p//x", "p/./x"])
def test_an_object_with_a_hostile_name_is_told(
    versitygw: VersityGateway, proxy: FaultyProxy, key: str
):
    with pytest.raises(OSError, match=f"contains an object with an unusable name, '{key}': remove"):
        listed(versitygw, proxy, ("p/a", 1), (key, 1))


def test_marks_of_folders_and_objects_beside_the_prefix_are_no_objects(
    versitygw: VersityGateway, proxy: FaultyProxy
):
    found = listed(
        versitygw, proxy, ("p/", 0), ("p/a-b", 1), ("p/a/", 0), ("p/a/b", 1), ("p/b\\c", 1)
    )
    assert found == ["a-b", "a/b"]


def test_a_storage_that_lists_in_no_order_is_told(versitygw: VersityGateway, proxy: FaultyProxy):
    with pytest.raises(OSError, match="does not list objects in the order of their keys"):
        listed(versitygw, proxy, ("p/b", 1), ("p/a", 1))


def test_a_listing_with_many_foreign_objects_asks_only_for_what_is_wanted(
    versitygw: VersityGateway, store: CloudObjects, proxy: FaultyProxy
):
    folder = versitygw.files / "runs" / store.location.split("/", 3)[3].split(" ")[0]
    (folder / "foreign").mkdir(parents=True)
    for number in range(1500):
        (folder / "foreign" / f"{number:05}").write_bytes(b"x")
    for key in ("aaa/1", "foreign/mine/2", "zzz/3"):
        store.put(key, b"1")
    proxy.requests.clear()
    assert [entry.key for entry in store.list("zzz/")] == ["zzz/3"]
    assert [entry.key for entry in store.list("foreign/mine/")] == ["foreign/mine/2"]
    assert [entry.key for entry in store.list("foreign/01498")] == ["foreign/01498"]
    assert len(proxy.requests) == 3


# -- the process ----------------------------------------------------------------------------------


def test_a_forked_child_is_refused_and_does_not_hang(versitygw: VersityGateway):
    """The library's threads are not in the child: a call of it there would never return."""
    store = versitygw.store("forks")
    store.put("a", b"1")
    child = os.fork()
    if not child:
        try:
            store.get("a")
        except OSError as error:
            os._exit(0 if "was opened by another process" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.get("a") == b"1"


def test_a_forked_child_cannot_open_a_store_of_its_own(versitygw: VersityGateway):
    store = versitygw.store("forks")
    store.put("a", b"1")
    child = os.fork()
    if not child:
        try:
            versitygw.store("forks").get("a")
        except OSError as error:
            os._exit(0 if "forked" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
