"""What every client of a namespace sends through: clusters and their endpoints, each compiled once.

Neither depends on who in the namespace asks, so the views of a namespace share the very same resources.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import msgspec

from mesh.compile import clusters
from mesh.compile.endpoints import load_assignment, of_subset
from mesh.compile.outbound_routes import hash_of
from mesh.model.context import NamespaceContext
from mesh.model.routes import Hash
from mesh.registry.types import Port, Service
from mesh.resource import CLUSTER, ENDPOINT, Resource, resource


class Upstream(msgspec.Struct, frozen=True, kw_only=True):
    cluster: Resource
    endpoints: Resource | None
    """None when the cluster finds its hosts by itself: by DNS, or by where the client was going."""
    hashes: Hash | None
    """What its load balancer hashes."""


class Upstreams:
    def __init__(self, context: NamespaceContext) -> None:
        self._context = context
        self._of: dict[str, Sequence[Upstream]] = {}

    @cached_property
    def fixed(self) -> Sequence[Resource]:
        """The clusters of traffic that nobody declared."""
        return [resource(item.name, CLUSTER, item) for item in clusters.fixed_clusters(self._context)]

    def of(self, service: Service) -> Sequence[Upstream]:
        """One for each port of the service, and one for each of its subsets on each."""
        found = self._of.get(service.hostname)
        if found is None:
            subsets = ("", *self._context.rules(service).subsets)
            found = self._of[service.hostname] = [
                self._upstream(service, port, subset) for port in service.ports for subset in subsets
            ]
        return found

    def _upstream(self, service: Service, port: Port, subset: str) -> Upstream:
        rules = self._context.rules(service)
        policy = rules.of(port.number, subset)
        message = clusters.outbound_cluster(self._context, service, port, subset, policy)
        name, endpoints = message.name, None
        if message.type == clusters.EDS:
            labels = rules.subsets[subset].labels if subset else {}
            members = of_subset(self._context, service, port.number, labels)
            assignment = load_assignment(self._context, name, service, members)
            endpoints = resource(name, ENDPOINT, assignment, rules.origins)
        references = ((ENDPOINT, name),) if endpoints else ()
        return Upstream(
            cluster=resource(name, CLUSTER, message, rules.origins, references),
            endpoints=endpoints,
            hashes=hash_of(policy.load_balancer),
        )
