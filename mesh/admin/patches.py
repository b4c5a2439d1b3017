"""Transformations of resources in flight: how one asks what a broken mesh would do, without breaking this one.

A module named at start exports `MUTANTS`: name to a function of (type URL, message) that returns the changed message,
or None to drop it. The one that is switched on is applied to everything every proxy is served.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from google.protobuf.message import Message

from mesh.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET, Resource, ResourceSet, resource

Mutant = Callable[[str, Message], Message | None]

MESSAGES: Mapping[str, type[Message]] = {
    CLUSTER: Cluster,
    ENDPOINT: ClusterLoadAssignment,
    LISTENER: Listener,
    ROUTE: RouteConfiguration,
    SECRET: Secret,
}


class UnknownPatch(KeyError):
    def __str__(self) -> str:
        return str(self.args[0])


class Patches:
    def __init__(self, module: str = "") -> None:
        """Raises `ImportError` when there is no such module or it exports no `MUTANTS`."""
        self.module = module
        self._mutants: Mapping[str, Mutant] = {}
        if module:
            loaded = importlib.import_module(module)
            try:
                self._mutants = loaded.MUTANTS
            except AttributeError:
                raise ImportError(f"module {module} ({loaded.__file__}) exports no MUTANTS") from None

    @property
    def names(self) -> list[str]:
        return sorted(self._mutants)

    def get(self, name: str) -> Callable[[ResourceSet], ResourceSet]:
        """Raises `UnknownPatch`."""
        if not self.module:
            raise UnknownPatch("no patches are loaded: start the control plane with --patches MODULE")
        if name not in self._mutants:
            raise UnknownPatch(f"no patch {name!r} in {self.module}; it has {', '.join(self.names) or 'none'}")
        mutant = self._mutants[name]

        def patch(resources: ResourceSet) -> ResourceSet:
            return {type_url: _patched(held, mutant) for type_url, held in resources.items()}

        return patch


def _patched(held: Mapping[str, Resource], mutant: Mutant) -> Mapping[str, Resource]:
    result: dict[str, Resource] = {}
    for name, r in held.items():
        before = MESSAGES[r.type_url]()
        before.ParseFromString(r.body)
        after = mutant(r.type_url, before)
        if after is not None:
            patched = resource(name, r.type_url, after, r.origins, r.references)
            result[name] = r if patched.version == r.version else patched
    return result
