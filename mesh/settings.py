"""What an operator decides for the whole mesh, and the constants both sides of a connection must agree on.

`MeshSettings` is an argument of compilation, beside configuration, registry and view: equal settings give equal bytes.
Ports, names and ALPN values are Istio's, so that people and tools recognise them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

ALPN_TCP = "istio"
ALPN_HTTP1 = "istio-http/1.1"
ALPN_HTTP1_0 = "istio-http/1.0"
ALPN_HTTP2 = "istio-h2"
MESH_HTTP_ALPN = (ALPN_HTTP1_0, ALPN_HTTP1, ALPN_HTTP2)
MESH_ALPN = (ALPN_TCP, *MESH_HTTP_ALPN)
"""What a client proxy offers first in its ClientHello: how the server proxy tells the mesh's own TLS, and HTTP in it
from other TCP. `h2` or `http/1.1` may follow in the offer; the server picks one of those two, because Envoy's codec
reads the negotiated value and does not know the mesh's."""

WORKLOAD_SECRET = "default"
"""SDS name of the workload's certificate and key."""
ROOT_SECRET = "ROOTCA"
"""SDS name of the trust bundle."""

INBOUND_PORT = 15006
OUTBOUND_PORT = 15001
INBOUND_BIND_ADDRESS = "127.0.0.6"
"""Where the proxy calls its own app from: the interception rules let this source through, so the call is not caught
again. The rules must `RETURN` output on `lo` from it, as Istio's do."""

RESERVED_PORTS = frozenset({15000, 15001, 15004, 15006, 15008, 15009, 15020, 15021, 15053, 15090})
"""Ports of the proxy itself: never an app's, never passed through."""

WORKLOAD_NAME_ENV = "ISTIO_META_WORKLOAD_NAME"
"""Environment variable of the proxy's container that holds the owner's name (a Deployment's, else the pod's): the one
fact about itself that a proxy reports and its view does not know."""


PEER_HEADER = "x-mesh-peer"
"""What a client proxy says of its workload to a server proxy, for telemetry: `workload;namespace;app;version`. The
server proxy reads it inside mutual TLS only, and takes it off either way: no app ever sees it. Who the peer *is* comes
from its certificate alone."""
PEER_METADATA = "istio.peer"

STATS_PREFIX = "istio"
"""Envoy names a counter of the stats access logger `envoy_<prefix>_<name>`; the proxy's scrape port drops `envoy_`."""


ENVOY_RUNTIME = {"re2.max_program_size.error_level": 32768}
"""Runtime values every bootstrap must hold. Envoy refuses regular expressions of more than 100 RE2 instructions by
default, which is a long host name without case; this is Istio's limit."""


class MeshSettings(msgspec.Struct, frozen=True, kw_only=True):
    trust_domain: str = "cluster.local"
    cluster_domain: str = "cluster.local"
    root_namespace: str = "istio-system"
    """Policies here hold for the whole mesh."""
    outbound_policy: Literal["ALLOW_ANY", "REGISTRY_ONLY"] = "ALLOW_ANY"
    """What becomes of traffic to a destination nobody declared. A `Sidecar` can override it."""
    access_log_path: str = "/dev/stdout"
    """Where the JSON access log goes; empty for none."""
    telemetry: bool = True
    """Count `istio_requests_total` and its kin."""
    connect_timeout_ms: int = 10_000
    protocol_detection_timeout_ms: int = 5_000
    """How long a connection to a port of undeclared protocol may stay silent before it is taken for TCP."""
    public_ca_file: str = "/etc/ssl/certs/ca-certificates.crt"
    """What TLS `SIMPLE` verifies against when the DestinationRule names no CA."""
