"""Discovery messages: requests parsed into plain values, responses concatenated from bytes that are shared.

A resource's body is serialised once, when it is compiled. A response is put together by hand around those bodies
(protobuf is length-prefixed fields, so concatenation is all there is to it); a push to a thousand streams of one view
builds its payload once and adds only the nonce.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError

from mesh.resource import Resource

MAX_CACHED_BYTES = 32 << 20
"""Payloads kept for the next stream that needs the same; the oldest go first."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What one discovery request says, whichever variant it came in."""

    type_url: str
    nonce: str = ""
    error: str | None = None
    """The NACK's message; None when the request carries no `error_detail`."""
    version: str = ""
    """State of the world only: the version last accepted."""
    names: tuple[str, ...] = ()
    """State of the world only: every name the client wants."""
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial_versions: Mapping[str, str] = {}


class Node(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    cluster: str = ""
    user_agent: str = ""


class Push(msgspec.Struct, frozen=True, kw_only=True):
    """One response to send."""

    type_url: str
    nonce: str
    version: str
    resources: tuple[Resource, ...]
    removed: tuple[str, ...] = ()


class Malformed(ValueError):
    """Bytes that are no discovery request."""


def parse_delta(data: bytes) -> tuple[Request, Node | None]:
    """Raises `Malformed`."""
    message = _parsed(discovery_pb2.DeltaDiscoveryRequest, data)
    request = Request(
        type_url=message.type_url,
        nonce=message.response_nonce,
        error=_error(message),
        subscribe=tuple(message.resource_names_subscribe),
        unsubscribe=tuple(message.resource_names_unsubscribe),
        initial_versions=dict(message.initial_resource_versions),
    )
    return request, _node(message)


def parse_sotw(data: bytes) -> tuple[Request, Node | None]:
    """Raises `Malformed`."""
    message = _parsed(discovery_pb2.DiscoveryRequest, data)
    request = Request(
        type_url=message.type_url,
        nonce=message.response_nonce,
        error=_error(message),
        version=message.version_info,
        names=tuple(message.resource_names),
    )
    return request, _node(message)


def _parsed(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError as exc:
        raise Malformed(f"not a {kind.DESCRIPTOR.name}: {exc}") from None


def _error(message: Any) -> str | None:
    if not message.HasField("error_detail"):
        return None
    return str(message.error_detail.message) or f"code {message.error_detail.code}"


def _node(message: Any) -> Node | None:
    """Only the first request of a stream is sure to name its node (xDS protocol, "Node")."""
    if not message.HasField("node"):
        return None
    node = message.node
    return Node(id=node.id, cluster=node.cluster, user_agent=node.user_agent_name)


# === writing ===


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, *parts: bytes) -> list[bytes]:
    """A length-delimited field."""
    return [_varint(number << 3 | 2), _varint(sum(map(len, parts))), *parts]


def _any(resource: Resource) -> list[bytes]:
    return _field(1, resource.type_url.encode()) + (_field(2, resource.body) if resource.body else [])


class Writer:
    """Builds responses; the payload of equal pushes is built once."""

    def __init__(self) -> None:
        self._cache: OrderedDict[tuple[object, ...], bytes] = OrderedDict()
        self._size = 0

    def delta(self, push: Push) -> bytes:
        # DeltaDiscoveryResponse: 1 system_version_info, 2 resources, 4 type_url, 5 nonce, 6 removed_resources.
        return self._payload("delta", push) + b"".join(_field(5, push.nonce.encode()))

    def sotw(self, push: Push) -> bytes:
        # DiscoveryResponse: 1 version_info, 2 resources, 4 type_url, 5 nonce.
        return self._payload("sotw", push) + b"".join(_field(5, push.nonce.encode()))

    def _payload(self, variant: str, push: Push) -> bytes:
        key = (variant, push.type_url, push.version, push.removed, *((r.name, r.version) for r in push.resources))
        cached = self._cache.get(key)
        if cached is not None:
            self._cache.move_to_end(key)
            return cached
        parts = _field(1, push.version.encode())
        if variant == "delta":
            for resource in push.resources:
                # Resource: 1 version, 2 resource, 3 name.
                parts += _field(
                    2,
                    *_field(1, resource.version.encode()),
                    *_field(2, *_any(resource)),
                    *_field(3, resource.name.encode()),
                )
            for name in push.removed:
                parts += _field(6, name.encode())
        else:
            for resource in push.resources:
                parts += _field(2, *_any(resource))
        parts += _field(4, push.type_url.encode())
        payload = b"".join(parts)
        if not _secret(push.resources):
            self._remember(key, payload)
        return payload

    def _remember(self, key: tuple[object, ...], payload: bytes) -> None:
        self._cache[key] = payload
        self._size += len(payload)
        while self._size > MAX_CACHED_BYTES and len(self._cache) > 1:
            self._size -= len(self._cache.popitem(last=False)[1])


def _secret(resources: Iterable[Resource]) -> bool:
    """Private keys belong to one stream: nothing is gained by keeping a copy, and something could be lost."""
    return any(resource.type_url.endswith(".Secret") for resource in resources)
