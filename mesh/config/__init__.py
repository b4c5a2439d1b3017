"""Mesh configuration: kinds, decoding, validation, and the folder it is kept in.

* `types`: the kinds, as immutable values; `support`: what of them is refused by name
* `snapshot`: all configuration at one instant
* `decode`, `checks`, `validate`: a document to an object; what is wrong with it, alone and among the others
* `source`: the watched folder, changed all or nothing; `store`, `ages`, `status`, `watch`, `latest` are its parts
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
