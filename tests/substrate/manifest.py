"""Manifests of the tests, built as data."""

from __future__ import annotations

import sys
from typing import Any

import yaml
from app import SOURCE

from manifests import Document, load_text

Manifest = dict[str, Any]


def documents(*objects: Manifest) -> list[Document]:
    return load_text(yaml.safe_dump_all(objects, sort_keys=False), "test.yaml")


def namespace(name: str, **labels: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def service(name: str, space: str, port: int = 80, target: int | str = 8080, **spec: Any) -> Manifest:
    ports = [{"name": "http", "port": port, "targetPort": target}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": space},
        "spec": {"selector": {"app": name}, "ports": ports, **spec},
    }


def config_map(name: str, space: str, **data: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": space}, "data": data}


def server(name: str = "app", port: int = 8080, **more: Any) -> Manifest:
    """A container with the test program."""
    return {
        "name": name,
        "command": [sys.executable, "-c", SOURCE, str(port)],
        "ports": [{"containerPort": port, "name": f"{name}-http"}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": port}, "periodSeconds": 0.2, "failureThreshold": 2},
        **more,
    }


def shell(script: str, name: str = "app", **more: Any) -> Manifest:
    return {"name": name, "command": ["sh", "-c", script], **more}


def pod(name: str, space: str, *containers: Manifest, **spec: Any) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": space, "labels": {"app": name}},
        "spec": {"containers": list(containers), "terminationGracePeriodSeconds": 2, **spec},
    }


def deployment(name: str, space: str, *containers: Manifest, replicas: int = 1, **spec: Any) -> Manifest:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": space},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": list(containers), "terminationGracePeriodSeconds": 2, **spec},
            },
        },
    }
