"""Routes of the inbound side: everything to the app, under the workload's policies.

They are RDS resources rather than part of the listener, so that a policy change holds from the next request on every
connection that is already open.
"""

from __future__ import annotations

from typing import Any

from envoy.config.route.v3.route_components_pb2 import RetryPolicy, RouteAction, RouteMatch, VirtualHost
from envoy.config.route.v3.route_components_pb2 import Route as EnvoyRoute
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from mesh.compile.filters import HTTP_RBAC_ALLOW, HTTP_RBAC_DENY
from mesh.compile.jwt import AUTHENTICATION, authentication_route
from mesh.compile.rbac import http_rules
from mesh.compile.wire import FALSE, packed, seconds, u32
from mesh.model.authz import policies, request_authentications
from mesh.model.context import Context

UNSENT_RETRIES = 2
"""An app may close an idle connection just as a request goes out on it. A request of which nothing was sent is sent
again; one of which anything was sent never is."""


def origins(context: Context) -> tuple[str, ...]:
    return (*(item.ref for item in request_authentications(context)), *policies(context).origins)


def inbound_route(context: Context, cluster: str) -> Any:
    host = VirtualHost(
        name=cluster,
        domains=["*"],
        routes=[
            EnvoyRoute(
                name="default",
                match=RouteMatch(prefix="/"),
                route=RouteAction(
                    cluster=cluster,
                    timeout=seconds(0),
                    retry_policy=RetryPolicy(retry_on="reset-before-request", num_retries=u32(UNSENT_RETRIES)),
                ),
            )
        ],
    )
    tokens = request_authentications(context)
    if tokens:
        host.typed_per_filter_config[AUTHENTICATION].CopyFrom(packed(authentication_route(tokens)))
    held = policies(context)
    domain = context.settings.trust_domain
    if held.deny:
        host.typed_per_filter_config[HTTP_RBAC_DENY].CopyFrom(packed(http_rules("DENY", held.deny, domain)))
    if held.allow:
        host.typed_per_filter_config[HTTP_RBAC_ALLOW].CopyFrom(packed(http_rules("ALLOW", held.allow, domain)))
    return RouteConfiguration(name=cluster, virtual_hosts=[host], validate_clusters=FALSE)
