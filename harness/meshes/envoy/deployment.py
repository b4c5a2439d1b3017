"""The control plane as Kubernetes objects: it runs as a pod of the world it controls."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manifests import Document

NAMESPACE = "mesh-system"
ROOT_NAMESPACE = "istio-system"
DEPLOYMENT = "meshproof-control"
SERVICE = "control-plane"
XDS_PORT = 15012
MONITORING_PORT = 15014
LABELS = {"app": DEPLOYMENT}


class Layout:
    """Where the control plane's files are, below the world's state folder."""

    def __init__(self, state: Path) -> None:
        self.cluster = state / "cluster"
        self.issuer = state / "issuer"
        self.mesh = state / "mesh"
        self.config = self.mesh / "config"
        self.ca = self.mesh / "ca"
        self.socket = self.mesh / "control.sock"

    def make(self) -> None:
        for folder in (self.mesh, self.config, self.ca):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def objects(layout: Layout, envoy: Path, flags: Mapping[str, str]) -> list[Document]:
    arguments = {
        "config-dir": layout.config,
        "cluster-dir": layout.cluster,
        "socket": layout.socket,
        "jwks": layout.issuer / "jwks.json",
        "state-dir": layout.mesh,
        "ca-cert": layout.ca / "cert.pem",
        "ca-key": layout.ca / "key.pem",
        "envoy": envoy,
        "namespace": NAMESPACE,
        "root-namespace": ROOT_NAMESPACE,
        "xds-port": XDS_PORT,
        "monitoring-port": MONITORING_PORT,
        **flags,
    }
    mounts = {"mesh": (layout.mesh, False), "cluster": (layout.cluster, True), "issuer": (layout.issuer, True)}
    container = {
        "name": "discovery",
        "image": "meshproof/control",
        "command": [sys.executable, "-m", "mesh", *(f"--{name}={value}" for name, value in arguments.items())],
        "ports": [
            {"containerPort": XDS_PORT, "name": "tls-xds"},
            {"containerPort": MONITORING_PORT, "name": "http-monitoring"},
        ],
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": MONITORING_PORT},
            "periodSeconds": 0.25,
            "timeoutSeconds": 3,
        },
        # Reads the root's key and makes the socket, both in a folder that is root's alone.
        "securityContext": {"runAsUser": 0, "runAsGroup": 0},
        "volumeMounts": [
            {"name": name, "mountPath": str(path), "readOnly": read_only} for name, (path, read_only) in mounts.items()
        ],
    }
    spec = {
        "serviceAccountName": DEPLOYMENT,
        "terminationGracePeriodSeconds": 5,
        "containers": [container],
        "volumes": [{"name": name, "hostPath": {"path": str(path)}} for name, (path, _) in mounts.items()],
    }
    return [
        _document("v1", "Namespace", NAMESPACE, ""),
        _document("v1", "Namespace", ROOT_NAMESPACE, ""),
        _document("v1", "ServiceAccount", DEPLOYMENT, NAMESPACE),
        _document(
            "v1",
            "Service",
            SERVICE,
            NAMESPACE,
            spec={
                "selector": LABELS,
                "ports": [
                    {"port": XDS_PORT, "name": "tls-xds"},
                    {"port": MONITORING_PORT, "name": "http-monitoring"},
                ],
            },
        ),
        _document(
            "apps/v1",
            "Deployment",
            DEPLOYMENT,
            NAMESPACE,
            spec={
                "replicas": 1,
                "selector": {"matchLabels": LABELS},
                "template": {"metadata": {"labels": LABELS}, "spec": spec},
            },
        ),
    ]


def _document(api_version: str, kind: str, name: str, namespace: str, **rest: Any) -> Document:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    data = {"apiVersion": api_version, "kind": kind, "metadata": metadata, **rest}
    return Document(file="<control plane>", line=1, data=data, lines={})
