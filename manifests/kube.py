"""The core Kubernetes kinds, as far as they are supported; a field that is not here is refused, never ignored.

Field names and meanings are the Kubernetes API's. Defaults are its defaults.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Port = Annotated[int, Meta(ge=1, le=65535)]


class Kube(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """Base of every type here: camelCase on the wire, unknown fields refused, immutable."""


class ObjectMeta(Kube, frozen=True, kw_only=True):
    name: str = ""
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    creation_timestamp: str | None = None
    uid: str = ""
    generation: int = 0
    resource_version: str = ""


class Namespace(Kube, frozen=True, kw_only=True):
    metadata: ObjectMeta
    api_version: Literal["v1"] = "v1"
    kind: Literal["Namespace"] = "Namespace"


class ServiceAccount(Kube, frozen=True, kw_only=True):
    metadata: ObjectMeta
    api_version: Literal["v1"] = "v1"
    kind: Literal["ServiceAccount"] = "ServiceAccount"


class ConfigMap(Kube, frozen=True, kw_only=True):
    metadata: ObjectMeta
    data: dict[str, str] = {}
    api_version: Literal["v1"] = "v1"
    kind: Literal["ConfigMap"] = "ConfigMap"


class ServicePort(Kube, frozen=True, kw_only=True):
    port: Port
    name: str = ""
    protocol: Literal["TCP"] = "TCP"
    target_port: int | str | None = None
    app_protocol: str | None = None


class ServiceSpec(Kube, frozen=True, kw_only=True):
    ports: list[ServicePort] = []
    selector: dict[str, str] = {}
    type: Literal["ClusterIP"] = "ClusterIP"
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    """`None` (the string) makes the service headless; empty lets the substrate choose."""
    publish_not_ready_addresses: bool = False


class Service(Kube, frozen=True, kw_only=True):
    metadata: ObjectMeta
    spec: ServiceSpec
    api_version: Literal["v1"] = "v1"
    kind: Literal["Service"] = "Service"


class ObjectFieldSelector(Kube, frozen=True, kw_only=True):
    field_path: str


class ConfigMapKeySelector(Kube, frozen=True, kw_only=True):
    name: str
    key: str
    optional: bool = False


class EnvVarSource(Kube, frozen=True, kw_only=True):
    field_ref: ObjectFieldSelector | None = None
    config_map_key_ref: ConfigMapKeySelector | None = None


class EnvVar(Kube, frozen=True, kw_only=True):
    name: str
    value: str | None = None
    value_from: EnvVarSource | None = None


class ConfigMapRef(Kube, frozen=True, kw_only=True):
    name: str
    optional: bool = False


class EnvFromSource(Kube, frozen=True, kw_only=True):
    config_map_ref: ConfigMapRef | None = None
    prefix: str = ""


class ContainerPort(Kube, frozen=True, kw_only=True):
    container_port: Port
    name: str = ""
    protocol: Literal["TCP"] = "TCP"


class HTTPHeader(Kube, frozen=True, kw_only=True):
    name: str
    value: str


class HTTPGetAction(Kube, frozen=True, kw_only=True):
    port: int | str
    path: str = "/"
    scheme: Literal["HTTP", "HTTPS"] = "HTTP"
    http_headers: list[HTTPHeader] = []


class TCPSocketAction(Kube, frozen=True, kw_only=True):
    port: int | str


class ExecAction(Kube, frozen=True, kw_only=True):
    command: list[str]


class Probe(Kube, frozen=True, kw_only=True):
    """Times are seconds, as in Kubernetes; fractions are accepted, so that a local run need not wait whole seconds."""

    http_get: HTTPGetAction | None = None
    tcp_socket: TCPSocketAction | None = None
    exec: ExecAction | None = None
    initial_delay_seconds: Annotated[float, Meta(ge=0)] = 0
    period_seconds: Annotated[float, Meta(gt=0)] = 10
    timeout_seconds: Annotated[float, Meta(gt=0)] = 1
    success_threshold: Annotated[int, Meta(ge=1)] = 1
    failure_threshold: Annotated[int, Meta(ge=1)] = 3


class SecurityContext(Kube, frozen=True, kw_only=True):
    run_as_user: int | None = None
    run_as_group: int | None = None
    privileged: bool = False


class VolumeMount(Kube, frozen=True, kw_only=True):
    name: str
    mount_path: str
    read_only: bool = False


class ResourceRequirements(Kube, frozen=True, kw_only=True):
    requests: dict[str, str | int | float] = {}
    limits: dict[str, str | int | float] = {}


class Container(Kube, frozen=True, kw_only=True):
    name: str
    image: str = ""
    """Names what a container engine would run; the local substrate runs `command` instead."""
    image_pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = ""
    command: list[str] = []
    args: list[str] = []
    working_dir: str = ""
    env: list[EnvVar] = []
    env_from: list[EnvFromSource] = []
    ports: list[ContainerPort] = []
    readiness_probe: Probe | None = None
    liveness_probe: Probe | None = None
    security_context: SecurityContext | None = None
    volume_mounts: list[VolumeMount] = []
    resources: ResourceRequirements | None = None


class KeyToPath(Kube, frozen=True, kw_only=True):
    key: str
    path: str


class ConfigMapVolume(Kube, frozen=True, kw_only=True):
    name: str
    items: list[KeyToPath] = []
    optional: bool = False


class EmptyDirVolume(Kube, frozen=True, kw_only=True):
    medium: str = ""


class ServiceAccountTokenProjection(Kube, frozen=True, kw_only=True):
    path: str
    audience: str = ""
    expiration_seconds: int = 3600


class VolumeProjection(Kube, frozen=True, kw_only=True):
    service_account_token: ServiceAccountTokenProjection | None = None
    config_map: ConfigMapVolume | None = None


class ProjectedVolume(Kube, frozen=True, kw_only=True):
    sources: list[VolumeProjection] = []


class HostPathVolume(Kube, frozen=True, kw_only=True):
    path: str
    type: str = ""


class Volume(Kube, frozen=True, kw_only=True):
    name: str
    config_map: ConfigMapVolume | None = None
    empty_dir: EmptyDirVolume | None = None
    projected: ProjectedVolume | None = None
    host_path: HostPathVolume | None = None


class PodSpec(Kube, frozen=True, kw_only=True):
    containers: list[Container]
    init_containers: list[Container] = []
    service_account_name: str = "default"
    volumes: list[Volume] = []
    restart_policy: Literal["Always", "OnFailure", "Never"] = "Always"
    security_context: SecurityContext | None = None
    termination_grace_period_seconds: Annotated[float, Meta(ge=0)] = 30
    hostname: str = ""


class PodCondition(Kube, frozen=True, kw_only=True):
    type: str
    status: Literal["True", "False", "Unknown"]


class ContainerStatus(Kube, frozen=True, kw_only=True):
    name: str
    ready: bool = False
    restart_count: int = 0


class PodStatus(Kube, frozen=True, kw_only=True):
    phase: Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"] = "Pending"
    pod_ip: str = msgspec.field(default="", name="podIP")
    conditions: list[PodCondition] = []
    container_statuses: list[ContainerStatus] = []

    @property
    def ready(self) -> bool:
        return any(c.type == "Ready" and c.status == "True" for c in self.conditions)


class Pod(Kube, frozen=True, kw_only=True):
    metadata: ObjectMeta
    spec: PodSpec
    status: PodStatus = PodStatus()
    api_version: Literal["v1"] = "v1"
    kind: Literal["Pod"] = "Pod"


class PodTemplate(Kube, frozen=True, kw_only=True):
    spec: PodSpec
    metadata: ObjectMeta = ObjectMeta()


class LabelSelector(Kube, frozen=True, kw_only=True):
    match_labels: dict[str, str] = {}


class DeploymentSpec(Kube, frozen=True, kw_only=True):
    selector: LabelSelector
    template: PodTemplate
    replicas: Annotated[int, Meta(ge=0)] = 1


class Deployment(Kube, frozen=True, kw_only=True):
    metadata: ObjectMeta
    spec: DeploymentSpec
    api_version: Literal["apps/v1"] = "apps/v1"
    kind: Literal["Deployment"] = "Deployment"


CoreObject = Namespace | ServiceAccount | ConfigMap | Service | Pod | Deployment

CORE_KINDS: dict[tuple[str, str], type[CoreObject]] = {
    ("v1", "Namespace"): Namespace,
    ("v1", "ServiceAccount"): ServiceAccount,
    ("v1", "ConfigMap"): ConfigMap,
    ("v1", "Service"): Service,
    ("v1", "Pod"): Pod,
    ("apps/v1", "Deployment"): Deployment,
}
"""(apiVersion, kind) to its type."""


def to_dict(obj: CoreObject) -> dict[str, object]:
    """`obj` as plain data, `apiVersion` and `kind` first, as it is written to JSON or YAML."""
    return {"apiVersion": obj.api_version, "kind": obj.kind, **msgspec.to_builtins(obj)}
