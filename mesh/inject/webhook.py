"""The admission decision and the injected pod: one pure function, used by every substrate.

`inject` adds an init container that loads the interception rules and writes the proxy's files, the proxy container,
and the volumes both need. What the pod's author wrote stays as it is.

The proxy container runs Envoy below a small shell script (`RUNNER`), because Envoy exits at once on SIGTERM: the
script turns SIGTERM into a graceful drain (readiness fails, GOAWAY and `Connection: close`, wait for what is in
flight) and then ends Envoy. bash rather than Python: 3 MiB instead of 12, and nothing to import while a pod starts.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from mesh.inject import init
from mesh.inject.bootstrap import (
    READINESS_PATH,
    READINESS_PORT,
    TOKEN_SECRET_FILE,
    BootstrapSettings,
    bootstrap,
    token_secret,
)
from mesh.inject.intercept import PREFIX, PROXY_ID, InvalidAnnotation, from_annotations, rules
from mesh.settings import WORKLOAD_NAME_ENV

PROXY = "istio-proxy"
INIT = "istio-init"
INJECT = "sidecar.istio.io/inject"
STATUS = "sidecar.istio.io/status"
BOOTSTRAP_FILE = "/run/istio-proxy/envoy.json"
FILES_VOLUME = "istio-envoy"
TOKEN_VOLUME = "istio-token"
TOKEN_SECONDS = 43_200
"""As Istio's; the kubelet (or the local substrate) replaces it at 80 %."""

RUNNER = r"""
admin() {
  exec 3<>/dev/tcp/127.0.0.1/15000 || return 1
  printf '%s %s HTTP/1.0\r\nhost: admin\r\ncontent-length: 0\r\n\r\n' "$1" "$2" >&3
  cat <&3
  exec 3<&-
}
busy() {
  admin GET '/stats?filter=downstream_rq_active%7Ctcp.*downstream_cx_active' |
    grep -v -e '^http.admin' -e prometheus -e readiness | grep -q ': [1-9]'
}
drain() {
  trap '' TERM INT
  admin POST /healthcheck/fail >/dev/null 2>&1
  admin POST '/drain_listeners?graceful&skip_exit' >/dev/null 2>&1
  sleep "$MIN_DRAIN_SECONDS"
  end=$((SECONDS + MAX_DRAIN_SECONDS))
  while [ "$SECONDS" -lt "$end" ] && kill -0 "$child" 2>/dev/null && busy; do sleep 0.1; done
  kill -TERM "$child" 2>/dev/null
}
"$@" &
child=$!
trap drain TERM INT
wait "$child"
status=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; status=$?; done
exit "$status"
"""


_GENERATED = re.compile(r"(.+)-[0-9a-f]{8,10}-[bcdfghjklmnpqrstvwxz2456789]{5}")
"""A Deployment's pod: the template's hash, and five letters of the alphabet Kubernetes makes names of."""


class InjectSettings(msgspec.Struct, frozen=True, kw_only=True):
    bootstrap: BootstrapSettings
    python: str
    """Interpreter of the init container."""
    envoy: str
    """Path of the proxy's binary."""
    token_audience: str = "istio-ca"
    concurrency: int = 1
    """Worker threads; more only cost memory on a machine of few cores."""
    log_level: str = "warning"
    drain_seconds: int = 5
    min_drain_seconds: float = 0.5
    """Time for the clients' proxies to learn that this pod goes, before it stops accepting."""
    log_flush_ms: int = 200
    """Envoy's default of 10 s would leave a reader of the access log guessing."""


class InjectionError(ValueError):
    """The pod cannot be injected; the message says which field and why."""


def wanted(pod: Mapping[str, Any]) -> bool:
    """Whether this pod, of a namespace where injection is on, gets a proxy. Host network never; the label wins over
    the annotation; without either, yes."""
    if pod.get("spec", {}).get("hostNetwork"):
        return False
    metadata = pod.get("metadata", {})
    if STATUS in (metadata.get("annotations") or {}):
        return False  # already injected
    if any(container.get("name") == PROXY for container in pod.get("spec", {}).get("containers", [])):
        return False
    for source in ("labels", "annotations"):
        value = str((metadata.get(source) or {}).get(INJECT, "")).lower()
        if value in {"false", "true"}:
            return value == "true"
        if value:
            raise InjectionError(f"metadata.{source}[{INJECT}]: {value!r}; expected 'true' or 'false'")
    return True


def _refuse_unsupported(annotations: Mapping[str, str]) -> None:
    """An annotation of Istio's that is not honoured is an error: its author counts on it."""
    for key in annotations:
        family = key.partition("/")[0]
        if family in {"sidecar.istio.io", "proxy.istio.io"} and key not in {INJECT, STATUS}:
            raise InjectionError(f"metadata.annotations[{key}] is not supported; supported are {INJECT} and {PREFIX}*")


def inject(pod: Mapping[str, Any], settings: InjectSettings) -> dict[str, Any]:
    """The pod that runs: as given when it is not `wanted`. Raises `InjectionError`."""
    result: dict[str, Any] = copy.deepcopy(dict(pod))
    if not wanted(pod):
        return result
    metadata = result.setdefault("metadata", {})
    namespace, name = str(metadata.get("namespace") or "default"), str(metadata.get("name") or "")
    if not name:
        raise InjectionError("metadata.name is empty: the proxy's identity needs the pod's name")
    annotations = dict(metadata.get("annotations") or {})
    _refuse_unsupported(annotations)
    try:
        intercept = from_annotations(annotations)
    except InvalidAnnotation as exc:
        raise InjectionError(f"metadata.annotations: {exc}") from None
    workload = workload_name(metadata)
    spec = result["spec"]
    config = bootstrap(settings.bootstrap, namespace=namespace, pod=name, workload=workload)
    files = {
        BOOTSTRAP_FILE: json.dumps(config, separators=(",", ":")),
        TOKEN_SECRET_FILE: json.dumps(token_secret(settings.bootstrap), separators=(",", ":")),
    }
    # Last of the init containers: those before it reach the network without the proxy, which does not run yet.
    spec["initContainers"] = [*(spec.get("initContainers") or []), _init_container(settings, rules(intercept), files)]
    # First of the containers: started before the app, which would otherwise find its network closed for longer.
    spec["containers"] = [_proxy_container(settings, workload), *spec["containers"]]
    spec["volumes"] = [*(spec.get("volumes") or []), *_volumes(settings)]
    metadata["annotations"] = annotations | {STATUS: json.dumps({"containers": [PROXY], "initContainers": [INIT]})}
    return result


def workload_name(metadata: Mapping[str, Any]) -> str:
    """The owner's name: `reviews-v1` of `reviews-v1-5f4b9c-x2x1z`; the pod's own for a bare pod."""
    name = str(metadata.get("name") or "")
    for owner in metadata.get("ownerReferences") or ():
        if owner.get("kind") in {"Deployment", "StatefulSet", "DaemonSet"}:
            return str(owner["name"])
        if owner.get("kind") == "ReplicaSet":
            return str(owner["name"]).rpartition("-")[0] or str(owner["name"])
    found = _GENERATED.fullmatch(name)
    return found.group(1) if found else name


def _init_container(settings: InjectSettings, iptables: str, files: Mapping[str, str]) -> dict[str, Any]:
    return {
        "name": INIT,
        "image": "meshproof/proxy",
        "command": [settings.python, "-m", "mesh.inject.init"],
        "env": [
            {"name": init.INSTANCE_IP, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": init.RULES, "value": iptables},
            {"name": init.FILES, "value": json.dumps(files)},
            {"name": init.OWNER, "value": str(PROXY_ID)},
        ],
        "securityContext": {"runAsUser": 0, "runAsGroup": 0, "privileged": True},
        "volumeMounts": [{"name": FILES_VOLUME, "mountPath": _folder(BOOTSTRAP_FILE)}],
    }


def _proxy_container(settings: InjectSettings, workload: str) -> dict[str, Any]:
    command = [
        settings.envoy,
        "--config-path",
        BOOTSTRAP_FILE,
        "--disable-hot-restart",
        "--concurrency",
        str(settings.concurrency),
        "--log-level",
        settings.log_level,
        # Says once per resource and update which field is deprecated: of no use to who runs a pod.
        "--component-log-level",
        "misc:error",
        "--drain-time-s",
        str(settings.drain_seconds),
        "--parent-shutdown-time-s",
        str(settings.drain_seconds + 1),
        "--file-flush-interval-msec",
        str(settings.log_flush_ms),
    ]
    return {
        "name": PROXY,
        "image": "meshproof/proxy",
        "command": ["/bin/bash", "-c", RUNNER, PROXY, *command],
        "env": [
            {"name": WORKLOAD_NAME_ENV, "value": workload},
            {"name": "MIN_DRAIN_SECONDS", "value": str(settings.min_drain_seconds)},
            {"name": "MAX_DRAIN_SECONDS", "value": str(settings.drain_seconds)},
        ],
        "ports": [{"containerPort": 15090, "name": "http-envoy-prom"}],
        "readinessProbe": {
            "httpGet": {"path": READINESS_PATH, "port": READINESS_PORT},
            # A probe costs the proxy about as much as a request does: often enough to start quickly, not oftener.
            "periodSeconds": 0.5,
            "timeoutSeconds": 3,
            "failureThreshold": 4,
        },
        "securityContext": {"runAsUser": PROXY_ID, "runAsGroup": PROXY_ID},
        "volumeMounts": [
            {"name": FILES_VOLUME, "mountPath": _folder(BOOTSTRAP_FILE), "readOnly": True},
            {"name": TOKEN_VOLUME, "mountPath": settings.bootstrap.token_directory, "readOnly": True},
        ],
    }


def _volumes(settings: InjectSettings) -> list[dict[str, Any]]:
    token = {
        "path": settings.bootstrap.token_file,
        "audience": settings.token_audience,
        "expirationSeconds": TOKEN_SECONDS,
    }
    return [
        {"name": FILES_VOLUME, "emptyDir": {"medium": "Memory"}},
        {"name": TOKEN_VOLUME, "projected": {"sources": [{"serviceAccountToken": token}]}},
    ]


def _folder(path: str) -> str:
    return path.rpartition("/")[0]
