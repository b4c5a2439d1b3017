"""AuthorizationPolicy and RequestAuthentication: which ones hold for a workload.

A policy of the root namespace holds for the whole mesh, any other for its own namespace; a selector narrows either.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

import msgspec

from mesh.config.snapshot import Config
from mesh.config.types import AuthorizationPolicy, RequestAuthentication
from mesh.config.types.istio_networking import MatchLabelsSelector
from mesh.model.context import Context
from mesh.model.matching import selects


class _Selected(Protocol):
    @property
    def selector(self) -> MatchLabelsSelector | None: ...


S = TypeVar("S", bound=_Selected)


def holding(context: Context, items: tuple[Config[S], ...]) -> tuple[Config[S], ...]:
    """Those that hold for the view's workload, oldest first."""
    return tuple(
        item
        for item in items
        if item.namespace in (context.view.namespace, context.settings.root_namespace)
        and selects(item.spec.selector.match_labels if item.spec.selector else {}, context.labels)
    )


class Policies(msgspec.Struct, frozen=True, kw_only=True):
    deny: tuple[Config[AuthorizationPolicy], ...] = ()
    allow: tuple[Config[AuthorizationPolicy], ...] = ()
    """One of these, whatever it says, and everything it does not allow is denied."""

    @property
    def origins(self) -> tuple[str, ...]:
        return tuple(item.ref for item in (*self.deny, *self.allow))


def policies(context: Context) -> Policies:
    held = holding(context, context.config.authorization_policies)
    return Policies(
        deny=tuple(item for item in held if item.spec.action == "DENY"),
        allow=tuple(item for item in held if item.spec.action == "ALLOW"),
    )


def request_authentications(context: Context) -> tuple[Config[RequestAuthentication], ...]:
    return tuple(item for item in holding(context, context.config.request_authentications) if item.spec.jwt_rules)
