"""The kinds this mesh is configured by. Each type is an object's `spec`; names are the field's own.

* `istio_networking`: VirtualService, DestinationRule, ServiceEntry, Gateway, Sidecar
* `istio_security`: PeerAuthentication, AuthorizationPolicy, RequestAuthentication
* `gateway_api`: HTTPRoute (its name is taken in `istio_networking` by one entry of `spec.http`)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mesh.config.types.gateway_api import HTTPRoute
from mesh.config.types.istio_networking import DestinationRule, Gateway, ServiceEntry, Sidecar, VirtualService
from mesh.config.types.istio_security import AuthorizationPolicy, PeerAuthentication, RequestAuthentication

_NETWORKING = tuple(f"networking.istio.io/{v}" for v in ("v1", "v1beta1", "v1alpha3"))
_SECURITY = tuple(f"security.istio.io/{v}" for v in ("v1", "v1beta1"))
_GATEWAY_API = ("gateway.networking.k8s.io/v1",)

API_VERSIONS: Mapping[str, tuple[str, ...]] = {
    "VirtualService": _NETWORKING,
    "DestinationRule": _NETWORKING,
    "ServiceEntry": _NETWORKING,
    "Gateway": _NETWORKING,
    "Sidecar": _NETWORKING,
    "PeerAuthentication": _SECURITY,
    "AuthorizationPolicy": _SECURITY,
    "RequestAuthentication": _SECURITY,
    "HTTPRoute": _GATEWAY_API,
}
"""Kind to the apiVersions it is read from."""

SPEC_TYPES: Mapping[str, type[Any]] = {
    "VirtualService": VirtualService,
    "DestinationRule": DestinationRule,
    "ServiceEntry": ServiceEntry,
    "Gateway": Gateway,
    "Sidecar": Sidecar,
    "PeerAuthentication": PeerAuthentication,
    "AuthorizationPolicy": AuthorizationPolicy,
    "RequestAuthentication": RequestAuthentication,
    "HTTPRoute": HTTPRoute,
}
"""Kind to the type of its `spec`."""

MESH_KINDS: Mapping[tuple[str, str], type[Any]] = {
    (api_version, kind): SPEC_TYPES[kind] for kind, versions in API_VERSIONS.items() for api_version in versions
}
"""(apiVersion, kind) to the type of its `spec`."""

__all__ = [
    "API_VERSIONS",
    "MESH_KINDS",
    "SPEC_TYPES",
    "AuthorizationPolicy",
    "DestinationRule",
    "Gateway",
    "HTTPRoute",
    "PeerAuthentication",
    "RequestAuthentication",
    "ServiceEntry",
    "Sidecar",
    "VirtualService",
]
