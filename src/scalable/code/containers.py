"""The container that a process runs in, as far as it can be told from inside.

Most runtimes tell a process nothing of its image: the image and its digest are known where the
environment names them, see :data:`IMAGE_VARIABLES`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, TypedDict, cast
from urllib.parse import unquote

#: Bytes of a file that are read.
_MAX_FILE: Final = 1024 * 1024
_MAX_TEXT: Final = 1_000
#: Variables that name the image, `name:tag@sha256:…`; the first that is set counts.
IMAGE_VARIABLES: Final = ("CONTAINER_IMAGE", "JUPYTER_IMAGE_SPEC", "JUPYTER_IMAGE")
#: Variables that name its digest, where the image's name does not.
DIGEST_VARIABLES: Final = ("CONTAINER_IMAGE_DIGEST", "IMAGE_DIGEST")
#: What Kubernetes' downward API is asked for, by the usual names of variables.
_POD_VARIABLES: Final[Mapping[str, tuple[str, ...]]] = {
    "pod": ("POD_NAME", "MY_POD_NAME", "K8S_POD_NAME"),
    "namespace": ("POD_NAMESPACE", "MY_POD_NAMESPACE", "K8S_NAMESPACE"),
    "pod_uid": ("POD_UID", "MY_POD_UID", "K8S_POD_UID"),
    "node": ("NODE_NAME", "MY_NODE_NAME", "K8S_NODE_NAME"),
}
_NAME_VARIABLES: Final = ("CONTAINER_NAME", "K8S_CONTAINER_NAME")
#: Where the downward API's files are mounted, and the file of each field.
_POD_FILES: Final = "etc/podinfo"
_POD_FILE_NAMES: Final = {"pod": "name", "namespace": "namespace", "pod_uid": "uid"}
#: What OpenTelemetry's operator and users say by the names of the conventions.
_OTEL_NAMES: Final = {
    "container.id": "id",
    "container.name": "name",
    "container.runtime.name": "runtime",
    "container.image.name": "image_name",
    "container.image.id": "image_id",
    "k8s.container.name": "name",
    "k8s.pod.name": "pod",
    "k8s.pod.uid": "pod_uid",
    "k8s.namespace.name": "namespace",
    "k8s.node.name": "node",
}
_ID: Final = re.compile(r"(?:^|[/:-])([0-9a-f]{64}|[0-9a-f]{32}-\d{1,12})(?:\.scope)?$")
#: Files that a runtime mounts from a directory which it names by the container's id.
_MOUNTED: Final = frozenset({"/etc/hostname", "/etc/hosts", "/etc/resolv.conf"})
_MOUNTED_FROM: Final = re.compile(r"/(?:overlay-)?containers/([0-9a-f]{64})/")
_POD_MOUNT: Final = re.compile(r"/pods/([0-9a-f-]{36})/containers/([^/]+)/")
_RUNTIME_OF: Final = (
    ("libpod", "podman"),
    ("overlay-containers", "podman"),
    ("cri-containerd", "containerd"),
    ("crio", "cri-o"),
    ("docker", "docker"),
)
_DIGEST: Final = re.compile(r"sha(?:256|512):[0-9a-f]{64,128}")


class Container(TypedDict, total=False):
    """A container; a field that is not known is absent."""

    #: `docker`, `podman`, `containerd`, `cri-o`, `apptainer`, `singularity`, …
    runtime: str
    id: str
    name: str
    #: The image without tag and digest; of Apptainer the path of its file.
    image_name: str
    image_tags: list[str]
    #: `name@sha256:…`.
    image_digests: list[str]
    image_id: str
    pod: str
    pod_uid: str
    namespace: str
    node: str


@cache
def own_container() -> Container:
    """Return the container of this process; empty if it runs in none. Looked up once."""
    return find_container(os.environ, Path("/"))


def find_container(environ: Mapping[str, str], root: Path) -> Container:
    """Return the container whose environment and files these are; it never raises.

    Parameters
    ----------
    environ
        The environment of the process.
    root
        Root of its file system.
    """
    found: dict[str, Any] = {}
    in_container = False
    for source in (_declared(environ), _apptainer(environ, root), _podman(root), _kernel(root)):
        for name, value in source.items():
            found.setdefault(name, value)
        in_container = in_container or bool(source)
    if (root / ".dockerenv").exists():
        found.setdefault("runtime", "docker")
    named = environ.get("container", "")
    if named and named != "none":
        found.setdefault("runtime", named)
    in_pod = "KUBERNETES_SERVICE_HOST" in environ
    if in_pod or "runtime" in found or in_container:
        # These names are used for other things outside of a container.
        _add_missing(found, _image(environ))
        found.setdefault("name", _first(environ, _NAME_VARIABLES))
    if in_pod:
        _add_missing(found, _pod(environ, root))
    return cast("Container", _bounded(found))


def _add_missing(found: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        found.setdefault(name, value)


def _bounded(found: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in found.items():
        if isinstance(value, str):
            value = value[:_MAX_TEXT]
        if value:
            kept[name] = value
    return kept


def _declared(environ: Mapping[str, str]) -> dict[str, Any]:
    """What ``OTEL_RESOURCE_ATTRIBUTES`` says."""
    found: dict[str, Any] = {}
    for pair in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        name, _, value = pair.partition("=")
        field = _OTEL_NAMES.get(name.strip())
        if field is not None and value.strip():
            found.setdefault(field, unquote(value.strip()))
        elif name.strip() == "container.image.repo_digests" and value.strip():
            found["image_digests"] = [unquote(value.strip())]
    return found


def _image(environ: Mapping[str, str]) -> dict[str, Any]:
    image = _first(environ, IMAGE_VARIABLES)
    found = parse_image(image) if image else {}
    digest = _first(environ, DIGEST_VARIABLES)
    if digest and "image_digests" not in found:
        match = _DIGEST.search(digest)
        if match is not None:
            name = digest.partition("@")[0] if "@" in digest else found.get("image_name", "")
            found["image_digests"] = [f"{name}@{match[0]}" if name else match[0]]
    return found


def parse_image(image: str) -> dict[str, Any]:
    """Return the parts of an image's name: `registry:5000/name:tag@sha256:…`."""
    name, _, digest = image.strip().partition("@")
    before, colon, tag = name.rpartition(":")
    found: dict[str, Any] = {"image_name": name}
    if colon and "/" not in tag:
        found = {"image_name": before, "image_tags": [tag]}
    if _DIGEST.fullmatch(digest):
        found["image_digests"] = [f"{found['image_name']}@{digest}"]
    return found


def _pod(environ: Mapping[str, str], root: Path) -> dict[str, Any]:
    """What Kubernetes' downward API says, in variables or files."""
    found: dict[str, Any] = {}
    for field, variables in _POD_VARIABLES.items():
        value = _first(environ, variables)
        if not value and field in _POD_FILE_NAMES:
            value = _text(root / _POD_FILES / _POD_FILE_NAMES[field]).strip()
        if value:
            found[field] = value
    return found


def _apptainer(environ: Mapping[str, str], root: Path) -> dict[str, Any]:
    for runtime, prefix in (("apptainer", "APPTAINER"), ("singularity", "SINGULARITY")):
        image = environ.get(f"{prefix}_CONTAINER", "")
        name = environ.get(f"{prefix}_NAME", "")
        if image or name:
            labels = _labels(root)
            found: dict[str, Any] = {"runtime": runtime, "image_name": image, "name": name}
            digest = labels.get("org.opencontainers.image.base.digest", "")
            source = labels.get("org.label-schema.usage.singularity.deffile.from", "")
            if _DIGEST.fullmatch(digest):
                found["image_digests"] = [f"{source.partition(':')[0]}@{digest}".lstrip("@")]
            elif "@" in source:
                found["image_digests"] = parse_image(source).get("image_digests", [])
            return found
    return {"runtime": "singularity"} if (root / ".singularity.d").is_dir() else {}


def _labels(root: Path) -> dict[str, str]:
    try:
        labels: Any = json.loads(_text(root / ".singularity.d" / "labels.json") or "{}")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(labels, dict):
        return {}
    return {str(name): str(value) for name, value in cast("dict[Any, Any]", labels).items()}


def _podman(root: Path) -> dict[str, Any]:
    """What Podman writes into `/run/.containerenv`; for most containers it is empty."""
    path = root / "run" / ".containerenv"
    if not path.exists():
        return {}
    found: dict[str, Any] = {"runtime": "podman"}
    values = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', _text(path), re.MULTILINE))
    for name, field in (("id", "id"), ("name", "name"), ("imageid", "image_id")):
        if values.get(name):
            found[field] = values[name]
    if values.get("image"):
        found |= parse_image(values["image"])
    return found


def _kernel(root: Path) -> dict[str, Any]:
    """What the names of control groups and the sources of mounts say."""
    found: dict[str, Any] = {}
    for line in _text(root / "proc" / "self" / "cgroup").splitlines():
        match = _ID.search(line)
        if match is not None:
            found.setdefault("id", match[1])
            _add_runtime(found, line)
    for source, target in _mounts(root):
        if target in _MOUNTED and (match := _MOUNTED_FROM.search(source)) is not None:
            found.setdefault("id", match[1])
            _add_runtime(found, source)
        elif (match := _POD_MOUNT.search(source)) is not None:
            found.setdefault("pod_uid", match[1])
            found.setdefault("name", match[2])
    return found


def _add_runtime(found: dict[str, Any], text: str) -> None:
    runtime = next((name for sign, name in _RUNTIME_OF if sign in text), None)
    if runtime is not None:
        found.setdefault("runtime", runtime)


def _mounts(root: Path) -> Iterator[tuple[str, str]]:
    """Yield source and target of the mounts of a process."""
    for line in _text(root / "proc" / "self" / "mountinfo").splitlines():
        parts = line.split(" ")
        if len(parts) > 4:
            yield parts[3], parts[4]


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((environ[name].strip() for name in names if environ.get(name, "").strip()), "")


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE).decode("utf-8", "replace")
    except OSError:
        return ""
