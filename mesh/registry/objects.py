"""The cluster's objects as the registry reads them: only the fields it needs, everything else skipped while parsing.

Lenient on purpose: whoever runs the pods has validated these objects, and what else they hold is none of our business.
"""

from __future__ import annotations

from typing import Any

import msgspec


class _View(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A projection of a Kubernetes object."""


class Meta(_View, frozen=True, kw_only=True):
    name: str
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None


class NamespaceObject(_View, frozen=True, kw_only=True):
    metadata: Meta


class ServicePortView(_View, frozen=True, kw_only=True):
    port: int
    name: str = ""
    protocol: str = "TCP"
    target_port: int | str | None = None
    app_protocol: str | None = None


class ServiceSpecView(_View, frozen=True, kw_only=True):
    ports: list[ServicePortView] = []
    selector: dict[str, str] = {}
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    publish_not_ready_addresses: bool = False


class ServiceObject(_View, frozen=True, kw_only=True):
    metadata: Meta
    spec: ServiceSpecView


class ContainerPortView(_View, frozen=True, kw_only=True):
    container_port: int
    name: str = ""


class ContainerView(_View, frozen=True, kw_only=True):
    name: str
    ports: list[ContainerPortView] = []


class PodSpecView(_View, frozen=True, kw_only=True):
    containers: list[ContainerView] = []
    init_containers: list[ContainerView] = []
    service_account_name: str = "default"


class ConditionView(_View, frozen=True, kw_only=True):
    type: str
    status: str


class PodStatusView(_View, frozen=True, kw_only=True):
    phase: str = "Pending"
    pod_ip: str = msgspec.field(default="", name="podIP")
    conditions: list[ConditionView] = []


class PodObject(_View, frozen=True, kw_only=True):
    metadata: Meta
    spec: PodSpecView
    status: PodStatusView = PodStatusView()


ClusterObject = NamespaceObject | ServiceObject | PodObject

DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "Namespace": msgspec.json.Decoder(NamespaceObject),
    "Service": msgspec.json.Decoder(ServiceObject),
    "Pod": msgspec.json.Decoder(PodObject),
}
"""Kind to the decoder of its JSON."""
