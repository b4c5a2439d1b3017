"""What makes an object of a known shape wrong, one module per family of kinds. Pure.

`check_object` sees one object; `check_set` sees all of them. Rules are Istio's and Gateway API's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mesh.config.checks import destination_rule, virtual_service
from mesh.config.checks.findings import Findings, Known
from mesh.config.checks.gateway_api import check_http_route
from mesh.config.checks.references import check_set
from mesh.config.checks.security import (
    check_authorization_policy,
    check_peer_authentication,
    check_request_authentication,
)
from mesh.config.checks.service_entry import check_gateway, check_service_entry, check_sidecar
from mesh.config.snapshot import Config

_CHECKS: Mapping[str, Callable[[Config[Any], Findings], None]] = {
    "VirtualService": virtual_service.check,
    "DestinationRule": destination_rule.check,
    "ServiceEntry": check_service_entry,
    "Gateway": check_gateway,
    "Sidecar": check_sidecar,
    "PeerAuthentication": check_peer_authentication,
    "AuthorizationPolicy": check_authorization_policy,
    "RequestAuthentication": check_request_authentication,
    "HTTPRoute": check_http_route,
}


def check_object(config: Config[Any], findings: Findings) -> None:
    """What is wrong with one object by itself."""
    _CHECKS[config.kind](config, findings)


__all__ = ["Findings", "Known", "check_object", "check_set"]
