"""Whether documents can be applied: decoded, and every reference followed. Pure; nothing has changed when it raises.

All errors of all documents are reported at once, each with its file, line and field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import AddressValueError, IPv4Address
from typing import Final, TypeVar

from harness.substrate.local import quantities, variables
from harness.substrate.local.network import SERVICE_NETWORK
from manifests import Document, InvalidManifests, ManifestError
from manifests.decode import decode
from manifests.kube import (
    CORE_KINDS,
    ConfigMap,
    Container,
    CoreObject,
    Deployment,
    Namespace,
    Pod,
    PodSpec,
    Probe,
    Service,
    ServiceAccount,
    Volume,
)
from manifests.load import FieldPath

Key = tuple[str, str, str]
"""(kind, namespace, name); the namespace of a Namespace is empty."""
Objects = Mapping[Key, CoreObject]

_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_DATA_KEY: Final = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_LABEL_KINDS: Final = (Namespace, Service)
DEFAULT_NAMESPACE: Final = "default"
_ORDER: Final = (Namespace, ServiceAccount, ConfigMap, Service, Pod, Deployment)
T = TypeVar("T")


def key_of(obj: CoreObject) -> Key:
    namespace = "" if isinstance(obj, Namespace) else obj.metadata.namespace or DEFAULT_NAMESPACE
    return obj.kind, namespace, obj.metadata.name


def check(documents: Iterable[Document], existing: Objects) -> list[CoreObject]:
    """`documents` as objects in the order in which to apply them. Raises `InvalidManifests`."""
    errors: list[ManifestError] = []
    decoded: list[tuple[Document, CoreObject]] = []
    first: dict[Key, Document] = {}
    for document in documents:
        kind = CORE_KINDS.get((document.api_version, document.kind))
        if kind is None:
            known = ", ".join(f"{version} {name}" for version, name in CORE_KINDS)
            errors.append(
                document.error(
                    ("kind",),
                    "is not a kind that the substrate runs",
                    value=f"{document.api_version} {document.kind}",
                    expected=f"one of {known}; mesh configuration goes through the mesh (meshproof apply)",
                )
            )
            continue
        try:
            obj: CoreObject = decode(document, kind)
        except InvalidManifests as exc:
            errors.extend(exc.errors)
            continue
        key = key_of(obj)
        if key in first:
            where = f"{first[key].file}:{first[key].line}"
            errors.append(document.error(("metadata", "name"), f"is declared twice (first in {where})", value=key[2]))
            continue
        first[key] = document
        decoded.append((document, obj))
    after: dict[Key, CoreObject] = {**existing, **{key_of(obj): obj for _, obj in decoded}}
    for document, obj in decoded:
        errors.extend(_Checker(document, obj, existing, after).run())
    if errors:
        raise InvalidManifests(errors)
    return sorted((obj for _, obj in decoded), key=lambda obj: _ORDER.index(type(obj)))


class _Checker:
    """One object against everything that will be there."""

    def __init__(self, document: Document, obj: CoreObject, existing: Objects, after: Objects) -> None:
        self._document = document
        self._obj = obj
        self._existing = existing
        self._after = after
        self._namespace = key_of(obj)[1]

    def _error(self, path: FieldPath, message: str, value: object = "", expected: str = "") -> ManifestError:
        return self._document.error(path, message, value=value, expected=expected)

    def run(self) -> Iterator[ManifestError]:
        yield from self._metadata()
        if isinstance(self._obj, Service):
            yield from self._service(self._obj)
        elif isinstance(self._obj, ConfigMap):
            for name in self._obj.data:
                if not _DATA_KEY.fullmatch(name) or name in {".", ".."}:
                    yield self._error(("data", name), "is not a key", name, "letters, digits, '-', '_' and '.'")
        elif isinstance(self._obj, Pod):
            yield from self._pod_spec(self._obj.spec, ("spec",))
            yield from self._unchanged_pod(self._obj)
        elif isinstance(self._obj, Deployment):
            yield from self._deployment(self._obj)

    def _metadata(self) -> Iterator[ManifestError]:
        metadata = self._obj.metadata
        pattern = _LABEL if isinstance(self._obj, _LABEL_KINDS) else _SUBDOMAIN
        if not pattern.fullmatch(metadata.name):
            yield self._error(
                ("metadata", "name"),
                "is missing" if not metadata.name else "is not a valid name",
                metadata.name,
                "lower-case letters, digits and hyphens",
            )
        if isinstance(self._obj, Namespace):
            if metadata.namespace:
                yield self._error(
                    ("metadata", "namespace"), "a Namespace is in no namespace", metadata.namespace, "no such field"
                )
        elif self._namespace != DEFAULT_NAMESPACE and ("Namespace", "", self._namespace) not in self._after:
            yield self._error(
                ("metadata", "namespace"), "names no Namespace", self._namespace, self._one_of("Namespace", "")
            )

    def _one_of(self, kind: str, namespace: str) -> str:
        names = sorted(name for k, ns, name in self._after if k == kind and ns == namespace)
        return (
            f"one of {', '.join(names)}" if names else f"a {kind}, of which there is none in {namespace or 'the world'}"
        )

    # --- Service

    def _service(self, service: Service) -> Iterator[ManifestError]:
        yield from self._unique(("spec", "ports"), [port.port for port in service.spec.ports], "port")
        names = [port.name for port in service.spec.ports]
        yield from self._unique(("spec", "ports"), [name for name in names if name], "name")
        if len(names) > 1:
            for index, name in enumerate(names):
                if not name:
                    yield self._error(("spec", "ports", index), "needs a name, because there are several ports")
        address = service.spec.cluster_ip
        if address in {"", "None"}:
            if not service.spec.ports and address == "":
                yield self._error(("spec", "ports"), "is empty", expected="at least one port (or a headless Service)")
            return
        path: FieldPath = ("spec", "clusterIP")
        try:
            inside = IPv4Address(address) in SERVICE_NETWORK
        except AddressValueError:
            inside = False
        if not inside:
            yield self._error(path, "is not a Service address", address, f"None, or an address in {SERVICE_NETWORK}")
        for key, other in self._after.items():
            if isinstance(other, Service) and key != key_of(service) and other.spec.cluster_ip == address:
                yield self._error(path, f"is taken by Service {key[1]}/{key[2]}", address)

    def _unique(self, path: FieldPath, values: list[T], what: str) -> Iterator[ManifestError]:
        seen: set[T] = set()
        for index, value in enumerate(values):
            if value in seen:
                yield self._error((*path, index), f"repeats the {what}", value)
            seen.add(value)

    # --- pods

    def _deployment(self, deployment: Deployment) -> Iterator[ManifestError]:
        labels = deployment.spec.template.metadata.labels
        wanted = deployment.spec.selector.match_labels
        path: FieldPath = ("spec", "selector", "matchLabels")
        if not wanted:
            yield self._error(path, "is empty", expected="labels that the template has")
        if any(labels.get(name) != value for name, value in wanted.items()):
            yield self._error(path, "does not match the template's labels", wanted, f"a part of {labels}")
        before = self._existing.get(key_of(deployment))
        if isinstance(before, Deployment) and before.spec.selector != deployment.spec.selector:
            yield self._error(path, "cannot be changed", wanted, f"{before.spec.selector.match_labels}")
        template: FieldPath = ("spec", "template", "spec")
        if deployment.spec.template.spec.restart_policy != "Always":
            yield self._error(
                (*template, "restartPolicy"), "of a Deployment", deployment.spec.template.spec.restart_policy, "Always"
            )
        yield from self._pod_spec(deployment.spec.template.spec, template)

    def _unchanged_pod(self, pod: Pod) -> Iterator[ManifestError]:
        before = self._existing.get(key_of(pod))
        if isinstance(before, Pod) and pod_intent(before) != pod_intent(pod):
            yield self._error(
                ("spec",), "of a running Pod cannot be changed", expected="delete the pod first, or use a Deployment"
            )

    def _pod_spec(self, spec: PodSpec, path: FieldPath) -> Iterator[ManifestError]:
        if not spec.containers:
            yield self._error((*path, "containers"), "is empty", expected="at least one container")
        account = spec.service_account_name
        if account != "default" and ("ServiceAccount", self._namespace, account) not in self._after:
            yield self._error(
                (*path, "serviceAccountName"),
                "names no ServiceAccount",
                account,
                self._one_of("ServiceAccount", self._namespace),
            )
        if spec.hostname and not _LABEL.fullmatch(spec.hostname):
            yield self._error((*path, "hostname"), "is not a valid name", spec.hostname, "a DNS label")
        yield from self._unique((*path, "volumes"), [volume.name for volume in spec.volumes], "name")
        for index, volume in enumerate(spec.volumes):
            yield from self._volume(volume, (*path, "volumes", index))
        every = [*spec.init_containers, *spec.containers]
        names = [container.name for container in every]
        for kind, containers in (("initContainers", spec.init_containers), ("containers", spec.containers)):
            for index, container in enumerate(containers):
                place: FieldPath = (*path, kind, index)
                if names.index(container.name) != next(i for i, one in enumerate(every) if one is container):
                    yield self._error((*place, "name"), "repeats the name", container.name)
                yield from self._container(container, spec, place)
        ports = [port.container_port for container in spec.containers for port in container.ports]
        for port in sorted({port for port in ports if ports.count(port) > 1}):
            yield self._error((*path, "containers"), "declare one containerPort twice", port)

    def _volume(self, volume: Volume, path: FieldPath) -> Iterator[ManifestError]:
        if not _LABEL.fullmatch(volume.name):
            yield self._error((*path, "name"), "is not a valid name", volume.name, "a DNS label")
        sources = [volume.config_map, volume.empty_dir, volume.projected, volume.host_path]
        if sum(source is not None for source in sources) != 1:
            yield self._error(
                path, "needs exactly one source", volume.name, "configMap, emptyDir, projected or hostPath"
            )
        maps = [((*path, "configMap"), volume.config_map)]
        for index, source in enumerate(volume.projected.sources if volume.projected is not None else ()):
            place: FieldPath = (*path, "projected", "sources", index)
            maps.append(((*place, "configMap"), source.config_map))
            token = source.service_account_token
            if token is not None and not _inside(token.path):
                yield self._error((*place, "serviceAccountToken", "path"), "leaves the volume", token.path)
        for place, config_map in maps:
            if config_map is None:
                continue
            yield from self._config_map((*place, "name"), config_map.name, config_map.optional)
            found = self._after.get(("ConfigMap", self._namespace, config_map.name))
            for index, item in enumerate(config_map.items):
                if isinstance(found, ConfigMap) and item.key not in found.data:
                    yield self._error((*place, "items", index, "key"), "is not in the ConfigMap", item.key)
                if not _inside(item.path):
                    yield self._error((*place, "items", index, "path"), "leaves the volume", item.path)

    def _config_map(self, path: FieldPath, name: str, optional: bool, key: str = "") -> Iterator[ManifestError]:
        found = self._after.get(("ConfigMap", self._namespace, name))
        if optional:
            return
        if not isinstance(found, ConfigMap):
            yield self._error(path, "names no ConfigMap", name, self._one_of("ConfigMap", self._namespace))
        elif key and key not in found.data:
            yield self._error(path, f"ConfigMap {name} has no such key", key, f"one of {', '.join(sorted(found.data))}")

    def _container(self, container: Container, spec: PodSpec, path: FieldPath) -> Iterator[ManifestError]:
        if not _LABEL.fullmatch(container.name):
            yield self._error((*path, "name"), "is not a valid name", container.name, "a DNS label")
        if not container.command:
            yield self._error(
                (*path, "command"), "is missing", expected="the program to run (there are no images here)"
            )
        yield from self._unique((*path, "ports"), [port.name for port in container.ports if port.name], "name")
        volumes = {volume.name for volume in spec.volumes}
        yield from self._unique(
            (*path, "volumeMounts"), [mount.mount_path for mount in container.volume_mounts], "mountPath"
        )
        for index, mount in enumerate(container.volume_mounts):
            place: FieldPath = (*path, "volumeMounts", index)
            if mount.name not in volumes:
                expected = f"one of {', '.join(sorted(volumes))}" if volumes else "a volume, of which there is none"
                yield self._error((*place, "name"), "names no volume of the pod", mount.name, expected)
            if not mount.mount_path.startswith("/") or mount.mount_path == "/":
                yield self._error(
                    (*place, "mountPath"), "is not a place to mount", mount.mount_path, "an absolute path"
                )
        for index, source in enumerate(container.env_from):
            if source.config_map_ref is not None:
                reference = source.config_map_ref
                yield from self._config_map(
                    (*path, "envFrom", index, "configMapRef", "name"), reference.name, reference.optional
                )
        for index, variable in enumerate(container.env):
            place = (*path, "env", index)
            origin = variable.value_from
            if origin is None:
                continue
            if variable.value is not None or (origin.field_ref is None) == (origin.config_map_key_ref is None):
                yield self._error(place, "needs exactly one of value and one kind of valueFrom", variable.name)
            elif origin.field_ref is not None and not variables.known_field(origin.field_ref.field_path):
                yield self._error(
                    (*place, "valueFrom", "fieldRef", "fieldPath"),
                    "is not known",
                    origin.field_ref.field_path,
                    f"one of {', '.join(variables.FIELD_PATHS)}",
                )
            elif origin.config_map_key_ref is not None:
                key_ref = origin.config_map_key_ref
                yield from self._config_map(
                    (*place, "valueFrom", "configMapKeyRef"), key_ref.name, key_ref.optional, key_ref.key
                )
        for name, probe in (("readinessProbe", container.readiness_probe), ("livenessProbe", container.liveness_probe)):
            if probe is not None:
                yield from self._probe(probe, container, (*path, name))
        for name, value in (container.resources.limits if container.resources is not None else {}).items():
            yield from self._attempt((*path, "resources", "limits", name), lambda v=value: quantities.quantity(v))  # type: ignore[misc]

    def _probe(self, probe: Probe, container: Container, path: FieldPath) -> Iterator[ManifestError]:
        handlers = [handler for handler in (probe.http_get, probe.tcp_socket, probe.exec) if handler is not None]
        if len(handlers) != 1:
            yield self._error(path, "needs exactly one handler", expected="httpGet, tcpSocket or exec")
        for name, handler in (("httpGet", probe.http_get), ("tcpSocket", probe.tcp_socket)):
            if handler is None:
                continue
            port = handler.port
            named = {declared.name for declared in container.ports}
            if isinstance(port, str) and port not in named and not port.isdigit():
                yield self._error((*path, name, "port"), "names no port of the container", port)

    def _attempt(self, path: FieldPath, work: Callable[[], object]) -> Iterator[ManifestError]:
        try:
            work()
        except ValueError as exc:
            yield self._error(path, str(exc))


def _inside(path: str) -> bool:
    """Whether a path stays in the folder it is relative to."""
    return bool(path) and not path.startswith("/") and ".." not in path.split("/")


def pod_intent(pod: Pod) -> object:
    """The part of a Pod that cannot change: its spec as it was asked for."""
    return pod.spec
