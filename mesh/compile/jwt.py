"""RequestAuthentication to the jwt_authn filter: an invalid token is refused (401), a missing one is not.

What a valid token said is left in dynamic metadata for authorization. jwt_authn keeps its keys in the filter, and so in
the listener, where a change would leave open connections to the old rules until they drain. It therefore comes
inside a composite filter, whose per-route configuration makes it: keys change with the routes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.extensions.common.matching.v3.extension_matcher_pb2 import (
    ExtensionWithMatcher,
    ExtensionWithMatcherPerRoute,
)
from envoy.extensions.filters.common.matcher.action.v3.skip_action_pb2 import SkipFilter
from envoy.extensions.filters.http.composite.v3.composite_pb2 import Composite, ExecuteFilterAction
from envoy.extensions.filters.http.jwt_authn.v3.config_pb2 import (
    JwtAuthentication,
    JwtHeader,
    JwtProvider,
    JwtRequirement,
    JwtRequirementAndList,
    JwtRequirementOrList,
)
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter

from mesh.compile.rbac import JWT_METADATA, JWT_PAYLOAD
from mesh.compile.wire import inline, packed
from mesh.config.snapshot import Config
from mesh.config.types import RequestAuthentication
from mesh.config.types.istio_security import JWTRule

AUTHENTICATION = "envoy.filters.http.composite.jwt_authn"


def authentication() -> Any:
    """The filter that does nothing until a route says what to do."""
    message = ExtensionWithMatcher(
        extension_config=TypedExtensionConfig(name=AUTHENTICATION, typed_config=packed(Composite()))
    )
    action = message.xds_matcher.on_no_match.action
    action.name = "skip"
    action.typed_config.CopyFrom(packed(SkipFilter()))
    return HttpFilter(name=AUTHENTICATION, typed_config=packed(message))


def authentication_route(items: Sequence[Config[RequestAuthentication]]) -> Any:
    """Per-route configuration of `authentication`: every rule that holds for the workload."""
    message = ExtensionWithMatcherPerRoute()
    action = message.xds_matcher.on_no_match.action
    action.name = "authenticate"
    action.typed_config.CopyFrom(
        packed(
            ExecuteFilterAction(
                typed_config=TypedExtensionConfig(name=JWT_METADATA, typed_config=packed(_authentication(items)))
            )
        )
    )
    return message


def _authentication(items: Sequence[Config[RequestAuthentication]]) -> Any:
    message = JwtAuthentication(bypass_cors_preflight=True)
    names = []
    for item in items:
        for number, rule in enumerate(item.spec.jwt_rules):
            name = f"{item.namespace}.{item.name}.{number}"
            names.append(name)
            message.providers[name].CopyFrom(_provider(rule))
    rule_message = message.rules.add()
    rule_message.match.prefix = "/"
    rule_message.requires.CopyFrom(_requirement(names))
    return message


def _provider(rule: JWTRule) -> Any:
    return JwtProvider(
        issuer=rule.issuer,
        audiences=rule.audiences,
        local_jwks=inline(rule.jwks),
        forward=rule.forward_original_token,
        from_headers=[JwtHeader(name=header.name, value_prefix=header.prefix) for header in rule.from_headers],
        from_params=rule.from_params,
        payload_in_metadata=JWT_PAYLOAD,
    )


def _or_missing(name: str) -> Any:
    missing = JwtRequirement()
    missing.allow_missing.SetInParent()
    return _any([JwtRequirement(provider_name=name), missing])


def _any(requirements: Sequence[Any]) -> Any:
    return JwtRequirement(requires_any=JwtRequirementOrList(requirements=requirements))


def _requirement(names: Sequence[str]) -> Any:
    """One valid token is enough; without a valid one, every provider's must be missing."""
    if len(names) == 1:
        return _or_missing(names[0])
    every = JwtRequirementAndList(requirements=[_or_missing(name) for name in names])
    return _any([*(JwtRequirement(provider_name=name) for name in names), JwtRequirement(requires_all=every)])
