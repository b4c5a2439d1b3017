"""What the broken meshes are made of: the registry of mutants, and how a resource's parts are found.

A mutant takes a type URL and a resource (a protobuf message, changed in place) and returns the resource, or None to
drop it. Parts are found wherever they stand, also inside `Any`s of filters and routes (`parts`), so a mutant does not
depend on where a mesh puts them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from envoy.extensions.common.matching.v3 import extension_matcher_pb2 as matcher_pb2
from envoy.extensions.filters.http.composite.v3 import composite_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2 as jwt_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

PREFIX = "type.googleapis.com/"
CLUSTER = PREFIX + "envoy.config.cluster.v3.Cluster"
LISTENER = PREFIX + "envoy.config.listener.v3.Listener"
ROUTE = PREFIX + "envoy.config.route.v3.RouteConfiguration"
SECRET = PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"

INBOUND_PORT = 15006

Mutant = Callable[[str, Message], Message | None]
Part = tuple[Any, Callable[[], None]]
"""Something within a resource, and what to call once it was changed."""
Finder = Callable[[str, Any], Iterator[Part]]

MUTANTS: dict[str, Mutant] = {}
"""Name to transformation."""


def mutant(name: str) -> Callable[[Mutant], Mutant]:
    """Register a transformation of whole resources."""

    def register(function: Mutant) -> Mutant:
        MUTANTS[name] = function
        return function

    return register


def changing(name: str, find: Finder) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Register a mutant that changes every part that `find` finds."""

    def register(change: Callable[[Any], None]) -> Callable[[Any], None]:
        def mutate(type_url: str, resource: Message) -> Message:
            for part, save in find(type_url, resource):
                change(part)
                save()
            return resource

        MUTANTS[name] = mutate
        return change

    return register


def dropping(name: str, find: Finder, *fields: str) -> None:
    """Register a mutant that forgets these fields of every part that `find` finds."""

    @changing(name, find)
    def _drop(part: Any) -> None:
        for field in fields:
            part.ClearField(field)


# --- finders


def whole(wanted: str) -> Finder:
    """Resources of one type."""

    def find(type_url: str, resource: Any) -> Iterator[Part]:
        if type_url == wanted:
            yield resource, _nothing

    return find


def virtual_hosts(type_url: str, resource: Any) -> Iterator[Part]:
    """Every virtual host, outbound and inbound."""
    if type_url == ROUTE:
        yield from ((host, _nothing) for host in resource.virtual_hosts)


def routes(type_url: str, resource: Any) -> Iterator[Part]:
    for host, save in virtual_hosts(type_url, resource):
        yield from ((route, save) for route in host.routes)


def inbound(type_url: str, resource: Any) -> Iterator[Part]:
    """The listener that takes what arrives at the pod."""
    if type_url == LISTENER and resource.address.socket_address.port_value == INBOUND_PORT:
        yield resource, _nothing


def parts(wanted: type[Message]) -> Finder:
    """Every message of a type, wherever it stands within a resource of any type."""

    def find(_: str, resource: Any) -> Iterator[Part]:
        yield from within(resource, wanted)

    return find


def within(message: Any, wanted: type[Message], save: Callable[[], None] | None = None) -> Iterator[Part]:
    """Every `wanted` in `message`, itself included."""
    save = save or _nothing
    if isinstance(message, wanted):
        yield message, save
    if isinstance(message, AnyMessage):
        inner = unpacked(message)
        if inner is not None:
            yield from within(inner, wanted, _write_back(message, inner, save))
        return
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        for child in _children(descriptor, value):
            yield from within(child, wanted, save)


def _children(descriptor: Any, value: Any) -> list[Any]:
    if descriptor.message_type.GetOptions().map_entry:
        is_message = descriptor.message_type.fields_by_name["value"].message_type is not None
        return [value[key] for key in list(value)] if is_message else []
    return list(value) if descriptor.is_repeated else [value]


def _write_back(any_: AnyMessage, inner: Message, save: Callable[[], None]) -> Callable[[], None]:
    def write() -> None:
        any_.value = inner.SerializeToString(deterministic=True)
        save()

    return write


def _nothing() -> None:
    """Changed in place: nothing to write back."""


_KNOWN: dict[str, type[Message]] = {
    PREFIX + message.DESCRIPTOR.full_name: message
    for message in (
        matcher_pb2.ExtensionWithMatcher,
        matcher_pb2.ExtensionWithMatcherPerRoute,
        composite_pb2.ExecuteFilterAction,
        hcm_pb2.HttpConnectionManager,
        fault_pb2.HTTPFault,
        http_rbac_pb2.RBAC,
        http_rbac_pb2.RBACPerRoute,
        jwt_pb2.JwtAuthentication,
        tls_pb2.DownstreamTlsContext,
        tls_pb2.UpstreamTlsContext,
    )
}


def unpacked(any_: AnyMessage) -> Message | None:
    """What is in `any_`, if it is something a mutant looks into."""
    kind = _KNOWN.get(any_.type_url)
    if kind is None:
        return None
    message = kind()
    message.ParseFromString(any_.value)
    return message


def copied(message: Any) -> Any:
    """A copy that survives the list it came from."""
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def keep(repeated: Any, kept: Callable[[Any], bool]) -> bool:
    """Leave in a repeated field only what `kept` accepts; whether anything went."""
    staying = [copied(item) for item in repeated if kept(item)]
    gone = len(staying) != len(repeated)
    if gone:
        del repeated[:]
        repeated.extend(staying)
    return gone
