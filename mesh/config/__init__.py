"""Mesh configuration: kinds, decoding, validation, and the folder it is kept in.

* `types`: the kinds, as immutable values; `support`: what of them is refused by name
* `snapshot`: all configuration at one instant
"""

from mesh.config.snapshot import EMPTY, ROOT_NAMESPACE, Config, ConfigMeta, ConfigSnapshot
from mesh.config.types import (
    API_VERSIONS,
    MESH_KINDS,
    SPEC_TYPES,
    AuthorizationPolicy,
    DestinationRule,
    Gateway,
    HTTPRoute,
    PeerAuthentication,
    RequestAuthentication,
    ServiceEntry,
    Sidecar,
    VirtualService,
)

__all__ = [
    "API_VERSIONS",
    "EMPTY",
    "MESH_KINDS",
    "ROOT_NAMESPACE",
    "SPEC_TYPES",
    "AuthorizationPolicy",
    "Config",
    "ConfigMeta",
    "ConfigSnapshot",
    "DestinationRule",
    "Gateway",
    "HTTPRoute",
    "PeerAuthentication",
    "RequestAuthentication",
    "ServiceEntry",
    "Sidecar",
    "VirtualService",
]
