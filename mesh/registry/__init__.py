"""Services and endpoints, from every source.

* `types`: what the mesh knows, as immutable values
* `cluster`: `ClusterSource` follows the cluster's objects; `service_entries` adds what configuration declares
* `build`: the rules, without I/O
"""

from mesh.registry.types import Endpoint, Port, Registry, Service, Workload

__all__ = ["Endpoint", "Port", "Registry", "Service", "Workload"]
