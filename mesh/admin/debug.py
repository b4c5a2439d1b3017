"""What is served and to whom, as JSON for people. Private keys are left out, whatever asks for them."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
from google.protobuf.json_format import MessageToDict

from mesh.admin.patches import MESSAGES
from mesh.registry.types import Registry
from mesh.resource import SECRET, SHORT_NAMES, Resource, ResourceSet
from mesh.xds.stream import Stream
from mesh.xds.subscription import set_version

REDACTED = "[redacted]"


def proxy_status(stream: Stream) -> dict[str, Any]:
    """ACK and NACK of each type, and how far behind the proxy is."""
    types: dict[str, Any] = {}
    for type_url, status in stream.status.items():
        sub = stream.planner.subscriptions[type_url]
        types[SHORT_NAMES[type_url]] = {
            "sent": set_version(sub.known.values()),
            "acked": set_version(sub.acked.values()),
            "nacked": status.error,
            "pending": sub.in_flight is not None,
            "resources": len(sub.acked),
            "pushes": status.pushes,
            "nacks": status.nacks,
            "ack_ms": round(status.ack_ms, 3),
        }
    return {
        "id": stream.proxy,
        "node": stream.node.id,
        "connected": True,
        "variant": "delta" if stream.delta else "sotw",
        "connected_at": stream.connected_at,
        "view": msgspec.to_builtins(stream.view),
        "generation": stream.live_generation,
        "refused": stream.refused,
        "types": types,
    }


def config_dump(resources: ResourceSet) -> dict[str, Any]:
    """Every resource of a view, by type."""
    return {
        SHORT_NAMES[type_url]: [_resource(held[name]) for name in sorted(held)]
        for type_url, held in sorted(resources.items())
    }


def _resource(r: Resource) -> dict[str, Any]:
    return {"name": r.name, "version": r.version, "origins": list(r.origins), "resource": _body(r)}


def _body(r: Resource) -> Any:
    message: Any = MESSAGES[r.type_url]()
    message.ParseFromString(r.body)
    if r.type_url == SECRET:
        if message.HasField("tls_certificate"):
            message.tls_certificate.private_key.inline_string = REDACTED
        if message.HasField("generic_secret"):
            message.generic_secret.secret.inline_string = REDACTED
    try:
        return MessageToDict(message, preserving_proto_field_name=True)
    except (TypeError, KeyError) as exc:
        # An Any of a type that is not linked in; a secret cannot come here, all its types are.
        return {"undecoded": base64.b64encode(r.body).decode(), "why": str(exc)}


def registry(value: Registry) -> dict[str, Any]:
    return {
        "services": {name: msgspec.to_builtins(service) for name, service in sorted(value.services.items())},
        "endpoints": {
            f"{host}:{port}": [msgspec.to_builtins(endpoint) for endpoint in endpoints]
            for (host, port), endpoints in sorted(value.endpoints.items())
        },
        "workloads": {
            f"{namespace}/{name}": msgspec.to_builtins(workload)
            for (namespace, name), workload in sorted(value.workloads.items())
        },
        "namespaces": {name: dict(labels) for name, labels in sorted(value.namespaces.items())},
    }
