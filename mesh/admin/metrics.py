"""What the control plane counts, as Prometheus metrics in a registry of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from mesh.resource import SHORT_NAMES

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Implements `mesh.xds.hub.Observer`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self._pushes = Counter("meshproof_xds_pushes", "Responses sent, by type.", ["type"], registry=r)
        self._bytes = Counter("meshproof_xds_push_bytes", "Bytes of responses sent, by type.", ["type"], registry=r)
        self._acks = Histogram(
            "meshproof_xds_ack_seconds", "From a response to its ACK, by type.", ["type"], buckets=SECONDS, registry=r
        )
        self._nacks = Counter("meshproof_xds_nacks", "Responses refused by a proxy, by type.", ["type"], registry=r)
        self._proxies = Gauge("meshproof_xds_connected_proxies", "Proxies with an open stream.", registry=r)
        self._compile = Histogram("meshproof_compile_seconds", "Compiling one view once.", buckets=SECONDS, registry=r)
        self._generation = Gauge("meshproof_config_generation", "States of the mesh since this start.", registry=r)
        self._convergence = Histogram(
            "meshproof_apply_seconds", "From a change being accepted to the last ACK.", buckets=SECONDS, registry=r
        )

    def compiled(self, seconds: float) -> None:
        self._compile.observe(seconds)

    def pushed(self, type_url: str, size: int) -> None:
        name = SHORT_NAMES[type_url]
        self._pushes.labels(name).inc()
        self._bytes.labels(name).inc(size)

    def acked(self, type_url: str, seconds: float) -> None:
        self._acks.labels(SHORT_NAMES[type_url]).observe(seconds)

    def nacked(self, type_url: str) -> None:
        self._nacks.labels(SHORT_NAMES[type_url]).inc()

    def connected(self, count: int) -> None:
        self._proxies.set(count)

    def generation(self, number: int) -> None:
        self._generation.set(number)

    def converged(self, seconds: float) -> None:
        self._convergence.observe(seconds)

    def render(self) -> bytes:
        return generate_latest(self.registry)
