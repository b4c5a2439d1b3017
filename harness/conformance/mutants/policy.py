"""Meshes that forget who may do what, and that miscount what was done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2 as jwt_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf.message import Message

from harness.conformance.mutants.xds import changing, copied, keep, mutant, parts, virtual_hosts, within

managers = parts(hcm_pb2.HttpConnectionManager)
policies = parts(rbac_pb2.Policy)
authentications = parts(jwt_pb2.JwtAuthentication)

# --- authorization and authentication


def _drop_filter(name: str, unwanted: Callable[[Any], bool]) -> None:
    """A mutant that forgets HTTP filters whose configuration is `unwanted`, in the chain and in what routes say."""

    def holds(config: Any) -> bool:
        kinds = (http_rbac_pb2.RBAC, jwt_pb2.JwtAuthentication)
        return any(unwanted(found) for kind in kinds for found, _ in within(config, kind))

    @mutant(name)
    def _drop(type_url: str, resource: Message) -> Message:
        for holder in _told(type_url, resource):
            for key, config in list(holder.typed_per_filter_config.items()):
                if holds(config):
                    del holder.typed_per_filter_config[key]
        for manager, save in managers(type_url, resource):
            if keep(manager.http_filters, lambda http_filter: not holds(http_filter.typed_config)):
                save()
        return resource


def _told(type_url: str, resource: Any) -> Iterator[Any]:
    """Whatever can configure a filter for a part of the traffic."""
    for host, _ in virtual_hosts(type_url, resource):
        yield host
        yield from host.routes


_drop_filter("drop-authorization", lambda config: isinstance(config, http_rbac_pb2.RBAC))
_drop_filter(
    "drop-deny", lambda config: isinstance(config, http_rbac_pb2.RBAC) and config.rules.action == rbac_pb2.RBAC.DENY
)
_drop_filter("drop-jwt", lambda config: isinstance(config, jwt_pb2.JwtAuthentication))


@changing("any-principal", policies)
def _any_principal(policy: Any) -> None:
    policy.ClearField("principals")
    policy.principals.add().any = True


@changing("any-permission", policies)
def _any_permission(policy: Any) -> None:
    policy.ClearField("permissions")
    policy.permissions.add().any = True


@changing("jwt-failures-allowed", authentications)
def _jwt_failures_allowed(authentication: Any) -> None:
    for rule in authentication.rules:
        rule.requires.allow_missing_or_failed.SetInParent()


@changing("jwt-missing-refused", authentications)
def _jwt_missing_refused(authentication: Any) -> None:
    for rule in authentication.rules:
        rule.requires.provider_name = min(authentication.providers)


@changing("jwt-wrong-keys", authentications)
def _jwt_wrong_keys(authentication: Any) -> None:
    for provider in authentication.providers.values():
        provider.local_jwks.inline_string = '{"keys":[]}'


# --- telemetry


def _counts(log: Any) -> bool:
    """Whether an access logger is one that counts (metrics) rather than one that writes."""
    return str(log.typed_config.type_url).endswith("access_loggers.stats.v3.Config")


@changing("drop-metrics", managers)
def _drop_metrics(manager: Any) -> None:
    keep(manager.access_log, lambda log: not _counts(log))


@changing("drop-access-log", managers)
def _drop_access_log(manager: Any) -> None:
    keep(manager.access_log, _counts)


@changing("log-twice", managers)
def _log_twice(manager: Any) -> None:
    manager.access_log.extend([copied(log) for log in manager.access_log])
