"""What is told of the container of a process; files and variables as real runtimes make them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scalable.code.containers import find_container, own_container, parse_image

ID = "3f4e" * 16
DIGEST = "sha256:" + "ab" * 32

#: Files below the root, variables, and what is found.
CASES: dict[str, tuple[dict[str, str], dict[str, str], dict[str, Any]]] = {
    "no container": (
        {"proc/self/cgroup": "0::/user.slice/user-1000.slice/session-2.scope\n"},
        {"NODE_NAME": "jenkins", "CONTAINER_NAME": "x", "CONTAINER_IMAGE": "y", "POD_NAME": "z"},
        {},
    ),
    "docker, cgroup 1": (
        {".dockerenv": "", "proc/self/cgroup": f"12:cpu:/docker/{ID}\n11:memory:/docker/{ID}\n"},
        {},
        {"runtime": "docker", "id": ID},
    ),
    "docker, cgroup 2": (
        {
            ".dockerenv": "",
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": (
                f"700 650 254:1 /docker/volumes/metadata/_data/containers/{ID}/hostname"
                " /etc/hostname rw,relatime - ext4 /dev/vda1 rw\n"
            ),
        },
        {"CONTAINER_IMAGE": f"ghcr.io/ada/floods:1.2@{DIGEST}"},
        {
            "runtime": "docker",
            "id": ID,
            "image_name": "ghcr.io/ada/floods",
            "image_tags": ["1.2"],
            "image_digests": [f"ghcr.io/ada/floods@{DIGEST}"],
        },
    ),
    "podman, privileged": (
        {
            "run/.containerenv": (
                f'engine="podman-4.9.3"\nname="floods"\nid="{ID}"\n'
                f'image="quay.io/ada/floods:latest"\nimageid="{"cd" * 32}"\nrootless=1\n'
            )
        },
        {"container": "podman"},
        {
            "runtime": "podman",
            "id": ID,
            "name": "floods",
            "image_id": "cd" * 32,
            "image_name": "quay.io/ada/floods",
            "image_tags": ["latest"],
        },
    ),
    "podman": (
        {
            "run/.containerenv": "",
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": (
                f"900 800 0:50 /containers/overlay-containers/{ID}/userdata/hostname"
                " /etc/hostname rw - tmpfs tmpfs rw\n"
            ),
        },
        {"container": "podman"},
        {"runtime": "podman", "id": ID},
    ),
    "kubernetes, containerd": (
        {
            "proc/self/cgroup": (
                "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/"
                f"cri-containerd-{ID}.scope\n"
            ),
            "proc/self/mountinfo": (
                "1 2 8:1 /var/lib/kubelet/pods/8b4b1ad4-3c4e-4c3a-9d9c-0a4f5f1f2f3e/containers/"
                "worker/9af8 /dev/termination-log rw - ext4 /dev/sda1 rw\n"
            ),
            "etc/podinfo/name": "floods-worker-7\n",
        },
        {
            "KUBERNETES_SERVICE_HOST": "10.0.0.1",
            "POD_NAMESPACE": "hydrology",
            "NODE_NAME": "node-3",
            "CONTAINER_IMAGE": "registry:5000/floods",
            "CONTAINER_IMAGE_DIGEST": DIGEST,
        },
        {
            "runtime": "containerd",
            "id": ID,
            "name": "worker",
            "pod_uid": "8b4b1ad4-3c4e-4c3a-9d9c-0a4f5f1f2f3e",
            "image_name": "registry:5000/floods",
            "image_digests": [f"registry:5000/floods@{DIGEST}"],
            "pod": "floods-worker-7",
            "namespace": "hydrology",
            "node": "node-3",
        },
    ),
    "kubernetes, the sandbox is not the container": (
        {
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": (
                f"1 2 8:1 /run/containerd/io.containerd.grpc.v1.cri/sandboxes/{ID}/hostname"
                " /etc/hostname rw - ext4 /dev/sda1 rw\n"
            ),
        },
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "POD_NAME": "w"},
        {"pod": "w"},
    ),
    "apptainer": (
        {
            ".singularity.d/labels.json": (
                f'{{"org.label-schema.usage.singularity.deffile.from": "ada/floods@{DIGEST}"}}'
            )
        },
        {"APPTAINER_CONTAINER": "/images/floods.sif", "APPTAINER_NAME": "floods.sif"},
        {
            "runtime": "apptainer",
            "image_name": "/images/floods.sif",
            "name": "floods.sif",
            "image_digests": [f"ada/floods@{DIGEST}"],
        },
    ),
    "what OpenTelemetry's operator says has precedence": (
        {".dockerenv": ""},
        {
            "OTEL_RESOURCE_ATTRIBUTES": (
                "service.name=x,container.name=theirs,k8s.pod.name=p%2Fq,"
                f"container.image.repo_digests=ada/floods@{DIGEST}"
            ),
            "CONTAINER_NAME": "ours",
        },
        {
            "runtime": "docker",
            "name": "theirs",
            "pod": "p/q",
            "image_digests": [f"ada/floods@{DIGEST}"],
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_container_is_told(tmp_path: Path, case: str):
    files, environ, expected = CASES[case]
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert find_container(environ, tmp_path) == expected


@pytest.mark.parametrize("labels", ["[1]", "{", "[" * 100_000, "\0"])
def test_broken_files_are_not_used(tmp_path: Path, labels: str):
    (tmp_path / ".singularity.d").mkdir()
    (tmp_path / ".singularity.d" / "labels.json").write_text(labels)
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_bytes(b"\xff\n" * 1000)
    found = find_container({"SINGULARITY_CONTAINER": "x" * 5_000}, tmp_path)
    assert found == {"runtime": "singularity", "image_name": "x" * 1_000}


def test_this_process_is_looked_at_without_an_error():
    assert isinstance(own_container(), dict)


def test_names_of_images():
    assert parse_image("localhost:5000/a") == {"image_name": "localhost:5000/a"}
    assert parse_image("a:1") == {"image_name": "a", "image_tags": ["1"]}
    assert parse_image("a@sha256:short") == {"image_name": "a"}
