"""One xDS resource, serialised once and shared by every stream that carries it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

PREFIX = "type.googleapis.com/"
CLUSTER = PREFIX + "envoy.config.cluster.v3.Cluster"
ENDPOINT = PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = PREFIX + "envoy.config.listener.v3.Listener"
ROUTE = PREFIX + "envoy.config.route.v3.RouteConfiguration"
SECRET = PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"

SHORT_NAMES: Mapping[str, str] = {CLUSTER: "CDS", ENDPOINT: "EDS", LISTENER: "LDS", ROUTE: "RDS", SECRET: "SDS"}


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """A named resource's bytes and their version (a hash of the content: it changes if and only if the content does).

    `origins` are the configuration objects it was made from, as `Kind/namespace/name`, so that a NACK can be reported
    on the object that caused it. `references` are names of other resources it needs: (type URL, name).
    """

    name: str
    type_url: str
    body: bytes
    version: str
    origins: tuple[str, ...] = ()
    references: tuple[tuple[str, str], ...] = ()


def resource(
    name: str, type_url: str, message: Any, origins: tuple[str, ...] = (), references: tuple[tuple[str, str], ...] = ()
) -> Resource:
    """Serialise `message` (a protobuf message), deterministically."""
    body = message.SerializeToString(deterministic=True)
    version = hashlib.blake2b(body, digest_size=8).hexdigest()
    return Resource(name=name, type_url=type_url, body=body, version=version, origins=origins, references=references)


ResourceSet = Mapping[str, Mapping[str, Resource]]
"""Type URL to resource name to resource: everything of one view."""
