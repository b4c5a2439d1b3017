"""What a container is started with: its environment, its arguments, what `fieldRef` says of its pod. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from manifests.kube import ConfigMap, Container, Pod

NODE_NAME: Final = "node"
_REFERENCE: Final = re.compile(r"\$(\$|\(([-._a-zA-Z][-._a-zA-Z0-9]{0,253})\))")
_SUBSCRIPT: Final = re.compile(r"metadata\.(labels|annotations)\['([^']{1,317})'\]")
_FIELDS: Final = (
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.podIP",
    "status.podIPs",
    "status.hostIP",
)
FIELD_PATHS: Final = (*_FIELDS, "metadata.labels['<key>']", "metadata.annotations['<key>']")


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`$(NAME)` replaced where NAME is known and left as it stands where not; `$$` is a plain `$`, as in Kubernetes."""

    def replacement(match: re.Match[str]) -> str:
        if match.group(1) == "$":
            return "$"
        return variables.get(match.group(2), match.group(0))

    return _REFERENCE.sub(replacement, text)


def known_field(path: str) -> bool:
    return path in _FIELDS or _SUBSCRIPT.fullmatch(path) is not None


def field(pod: Pod, path: str, host_ip: str) -> str:
    """The value of a downward-API `fieldPath`."""
    subscript = _SUBSCRIPT.fullmatch(path)
    if subscript:
        of = pod.metadata.labels if subscript.group(1) == "labels" else pod.metadata.annotations
        return of.get(subscript.group(2), "")
    values = {
        "metadata.name": pod.metadata.name,
        "metadata.namespace": pod.metadata.namespace,
        "metadata.uid": pod.metadata.uid,
        "spec.nodeName": NODE_NAME,
        "spec.serviceAccountName": pod.spec.service_account_name,
        "status.podIP": pod.status.pod_ip,
        "status.podIPs": pod.status.pod_ip,
        "status.hostIP": host_ip,
    }
    return values[path]


def environment(
    pod: Pod, container: Container, config_maps: Mapping[str, ConfigMap], base: Mapping[str, str], host_ip: str
) -> dict[str, str]:
    """The container's variables: `base`, then `envFrom`, then `env` in order, where later ones may refer to earlier
    ones. `config_maps` are those of the pod's namespace. Raises `KeyError` for a missing, not optional reference."""
    result = dict(base)
    for source in container.env_from:
        reference = source.config_map_ref
        if reference is None:
            continue
        if reference.name not in config_maps:
            if reference.optional:
                continue
            raise KeyError(f"ConfigMap {reference.name}")
        for key, value in config_maps[reference.name].data.items():
            result[source.prefix + key] = value
    for variable in container.env:
        origin = variable.value_from
        if origin is None:
            result[variable.name] = expand(variable.value or "", result)
        elif origin.field_ref is not None:
            result[variable.name] = field(pod, origin.field_ref.field_path, host_ip)
        elif origin.config_map_key_ref is not None:
            key_ref = origin.config_map_key_ref
            data = config_maps[key_ref.name].data if key_ref.name in config_maps else {}
            if key_ref.key in data:
                result[variable.name] = data[key_ref.key]
            elif not key_ref.optional:
                raise KeyError(f"key {key_ref.key} of ConfigMap {key_ref.name}")
    return result


def command_line(container: Container, variables: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(expand(part, variables) for part in (*container.command, *container.args))
