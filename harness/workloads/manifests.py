"""The workloads as Kubernetes objects, ready for any substrate.

The YAML stands beside the programs (`bookinfo/bookinfo.yaml`, `echo/echo.yaml`); here its few variables are filled in.
What is meshed differs from what is not in one label of the namespace.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template

import msgspec

from manifests import Document, load_file, load_text

HERE = Path(__file__).parent
BOOKINFO = HERE / "bookinfo" / "bookinfo.yaml"
ECHO = HERE / "echo" / "echo.yaml"
BOOKINFO_MESH = HERE / "bookinfo" / "mesh"

REVIEWS_VERSIONS = ("v1", "v2", "v3")


class EchoApp(msgspec.Struct, frozen=True, kw_only=True):
    """One app of an echo fleet: a Service `name` over all versions and one `name-version` for each; a Deployment
    `name-version` for each, all under one ServiceAccount."""

    name: str
    versions: Sequence[str] = ("v1",)
    replicas: int = 1
    """Of each version."""
    service_account: str = ""
    """`name` when empty."""
    labels: Mapping[str, str] = {}
    """Further labels of its pods."""


DEFAULT_FLEET = (EchoApp(name="client"), EchoApp(name="server", versions=("v1", "v2", "v3")))


def bookinfo(
    namespace: str,
    *,
    injected: bool,
    python: str = sys.executable,
    reviews: Iterable[str] = REVIEWS_VERSIONS,
    env: Mapping[str, str] | None = None,
) -> list[Document]:
    """Bookinfo, its namespace and a `client` pod. `reviews` are the versions of reviews that run; `env` is given to
    every bookinfo container (such as `PROFILE_OFF`)."""
    wanted = set(reviews)
    if unknown := wanted - set(REVIEWS_VERSIONS):
        raise ValueError(f"reviews: {', '.join(sorted(unknown))} unknown; there are {', '.join(REVIEWS_VERSIONS)}")
    documents = _filled(BOOKINFO, namespace, injected, python)
    left_out = {f"reviews-{version}" for version in REVIEWS_VERSIONS if version not in wanted}
    documents = [d for d in documents if not (d.kind == "Deployment" and d.name in left_out)]
    if env:
        for document in documents:
            if document.kind == "Deployment" and document.name != "client":
                for container in document.data["spec"]["template"]["spec"]["containers"]:
                    container["env"] += [{"name": name, "value": value} for name, value in env.items()]
    return documents


def bookinfo_mesh(name: str, namespace: str = "bookinfo") -> list[Document]:
    """The Istio configuration `bookinfo/mesh/<name>.yaml`, such as `destination-rules` or `reviews-v3`."""
    path = BOOKINFO_MESH / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in BOOKINFO_MESH.glob("*.yaml")))
        raise ValueError(f"no bookinfo mesh configuration {name!r}; there are {known}")
    documents = load_file(path)
    for document in documents:
        document.data["metadata"]["namespace"] = namespace
    return documents


def echo_fleet(
    namespace: str,
    *,
    injected: bool,
    apps: Sequence[EchoApp] = DEFAULT_FLEET,
    python: str = sys.executable,
) -> list[Document]:
    """A namespace of echo apps."""
    documents = [namespace_document(namespace, injected=injected)]
    for app in apps:
        documents += echo_app(namespace, app, python=python)
    return documents


def echo_app(namespace: str, app: EchoApp, *, python: str = sys.executable) -> list[Document]:
    """One echo app in a namespace that exists."""
    documents: list[Document] = []
    for version in app.versions:
        documents += _filled(
            ECHO,
            namespace,
            False,
            python,
            NAME=app.name,
            VERSION=version,
            REPLICAS=str(app.replicas),
            SERVICE_ACCOUNT=app.service_account or app.name,
        )
    if app.labels:
        for document in documents:
            if document.kind == "Deployment":
                document.data["spec"]["template"]["metadata"]["labels"].update(app.labels)
    # ServiceAccount and the Service over all versions are the same in each version's copy.
    unique: dict[tuple[str, str], Document] = {}
    for document in documents:
        unique.setdefault((document.kind, document.name), document)
    return list(unique.values())


def client_pod(
    namespace: str,
    name: str = "client",
    *,
    service_account: str = "default",
    labels: Mapping[str, str] | None = None,
    python: str = sys.executable,
) -> Document:
    """One bare echo pod, without a Service: a caller under remote control. It is its own `app`, version v1."""
    deployment = next(
        d
        for d in _filled(
            ECHO, namespace, False, python, NAME=name, VERSION="v1", REPLICAS="1", SERVICE_ACCOUNT=service_account
        )
        if d.kind == "Deployment"
    )
    template = deployment.data["spec"]["template"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {**template["metadata"]["labels"], **(labels or {})},
        },
        "spec": template["spec"],
    }
    return _document(pod)


def namespace_document(name: str, *, injected: bool, labels: Mapping[str, str] | None = None) -> Document:
    return _document(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": name,
                "labels": {"istio-injection": "enabled" if injected else "disabled", **(labels or {})},
            },
        }
    )


def _filled(path: Path, namespace: str, injected: bool, python: str, **more: str) -> list[Document]:
    text = Template(path.read_text(encoding="utf-8")).substitute(
        NAMESPACE=namespace,
        INJECTION="enabled" if injected else "disabled",
        PYTHON=json.dumps(python),
        **more,
    )
    return load_text(text, str(path))


def _document(data: dict[str, object]) -> Document:
    [document] = load_text(json.dumps(data), "harness.workloads.manifests")
    return document
