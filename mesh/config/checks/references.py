"""What objects mean to each other: duplicates, conflicts, and references that lead nowhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from manifests import Document, ManifestError
from manifests.load import FieldPath
from manifests.metadata import guess_for
from mesh.config.checks.findings import Findings, Known
from mesh.config.checks.values import is_host, is_ip
from mesh.config.checks.virtual_service import MESH_GATEWAY
from mesh.config.snapshot import Config
from mesh.config.types import DestinationRule, VirtualService
from mesh.config.types import istio_networking as istio
from mesh.model.hosts import covers, qualified

Item = tuple[Config[Any], Findings]


class SetFindings(msgspec.Struct, frozen=True, kw_only=True):
    errors: tuple[ManifestError, ...]
    warnings: tuple[ManifestError, ...]


def check_set(objects: Iterable[tuple[Config[Any], Document]], known: Known) -> SetFindings:
    """All objects together."""
    items: list[Item] = [(config, Findings(document)) for config, document in objects]
    _duplicates(items)
    world = _World(items, known)
    for config, findings in items:
        if config.kind == "VirtualService":
            _virtual_service(config, findings, world)
        elif config.kind == "DestinationRule":
            _destination_rule(config, findings, world)
        elif config.kind == "HTTPRoute":
            _http_route(config, findings, world)
        elif config.kind == "ServiceEntry":
            _service_entry(config, findings, world)
    _claims(items, known.domain)
    _subsets_of_one_host(items, known.domain)
    _one_per_scope(items)
    return SetFindings(
        errors=tuple(error for _, findings in items for error in findings.errors),
        warnings=tuple(warning for _, findings in items for warning in findings.warnings),
    )


def _at(config: Config[Any]) -> str:
    return f"{config.ref} ({config.meta.file}:{config.meta.line})"


def _duplicates(items: Sequence[Item]) -> None:
    first: dict[str, Config[Any]] = {}
    for config, findings in items:
        other = first.setdefault(config.ref, config)
        if other is not config:
            findings.error(
                ("metadata", "name"),
                f"is a second {config.kind} of this name in namespace {config.namespace}; the first is at "
                f"{other.meta.file}:{other.meta.line}",
                value=config.name,
                expected="one object per kind, namespace and name",
            )


class _World:
    """What references can lead to."""

    def __init__(self, items: Sequence[Item], known: Known) -> None:
        self.known = known
        self.domain = known.domain
        self.entries: dict[str, frozenset[int]] = {}
        """Hosts of ServiceEntries, with their ports."""
        self.gateways: set[str] = set()
        self.subsets: dict[str, dict[str, Config[DestinationRule]]] = {}
        """Host of DestinationRules to the subsets they define."""
        for config, _ in items:
            if config.kind == "ServiceEntry":
                for host in config.spec.hosts:
                    ports = frozenset(port.number for port in config.spec.ports)
                    self.entries[host] = self.entries.get(host, frozenset()) | ports
            elif config.kind == "Gateway":
                self.gateways.add(f"{config.namespace}/{config.name}")
            elif config.kind == "DestinationRule":
                host = qualified(config.spec.host, config.namespace, known.domain)
                defined = self.subsets.setdefault(host, {})
                for subset in config.spec.subsets:
                    defined.setdefault(subset.name, config)

    def ports(self, host: str) -> frozenset[int] | None:
        """The ports of `host`; None when nobody has such a host."""
        hosts: Mapping[str, frozenset[int]] = self.known.hosts or {}
        if host in hosts:
            return hosts[host]
        if host in self.entries:
            return self.entries[host]
        wild = [ports for pattern, ports in self.entries.items() if pattern.startswith("*") and covers(pattern, host)]
        return frozenset().union(*wild) if wild else None

    def subsets_of(self, host: str) -> set[str]:
        return {name for pattern, defined in self.subsets.items() if covers(pattern, host) for name in defined}

    def suggestion(self, host: str, written: str) -> str:
        """What was probably meant by a host nobody has."""
        hosts = [*(self.known.hosts or {}), *self.entries]
        if "." in written and f"{written}.svc.{self.domain}" in hosts:
            return f"{written}.svc.{self.domain}"
        return guess_for(host, hosts)


# === references ===


def _report(findings: Findings, strict: bool, path: FieldPath, message: str, value: object, expected: str) -> None:
    (findings.error if strict else findings.warn)(path, message, value=value, expected=expected)


def _check_host(
    config: Config[Any], findings: Findings, world: _World, path: FieldPath, written: str, port: int | None
) -> None:
    """`path` is the object that has `host` and maybe `port` in it."""
    if world.known.hosts is None or not (is_host(written) or is_ip(written)):
        return
    strict = world.known.is_strict(config.ref)
    host = qualified(written, config.namespace, world.domain)
    ports = world.ports(host)
    if ports is None:
        guess = world.suggestion(host, written)
        _report(
            findings,
            strict,
            (*path, "host"),
            "is no Service and no ServiceEntry" + (f'; did you mean "{guess}"?' if guess else ""),
            written if written == host else f"{written}, which is {host}",
            "a host that exists",
        )
    elif port is not None and port not in ports:
        _report(
            findings,
            strict,
            (*path, "port", "number"),
            f"is no port of {host}",
            port,
            "one of " + ", ".join(map(str, sorted(ports))),
        )


def _destinations(spec: VirtualService) -> Iterator[tuple[FieldPath, istio.Destination]]:
    lists: tuple[tuple[str, Sequence[istio.HTTPRoute | istio.TLSRoute | istio.TCPRoute]], ...] = (
        ("http", spec.http),
        ("tls", spec.tls),
        ("tcp", spec.tcp),
    )
    for kind, routes in lists:
        for index, route in enumerate(routes):
            base: FieldPath = ("spec", kind, index)
            entries: Sequence[istio.HTTPRouteDestination | istio.RouteDestination] = route.route
            for number, entry in enumerate(entries):
                yield (*base, "route", number, "destination"), entry.destination
            if isinstance(route, istio.HTTPRoute):
                if route.mirror is not None:
                    yield (*base, "mirror"), route.mirror
                for number, mirror in enumerate(route.mirrors):
                    yield (*base, "mirrors", number, "destination"), mirror.destination


def _virtual_service(config: Config[VirtualService], findings: Findings, world: _World) -> None:
    for path, destination in _destinations(config.spec):
        _check_host(
            config, findings, world, path, destination.host, destination.port.number if destination.port else None
        )
        if destination.subset:
            host = qualified(destination.host, config.namespace, world.domain)
            defined = world.subsets_of(host)
            if destination.subset not in defined:
                guess = guess_for(destination.subset, sorted(defined))
                _report(
                    findings,
                    world.known.complete or bool(defined),
                    (*path, "subset"),
                    f"is defined by no DestinationRule of {host}" + (f'; did you mean "{guess}"?' if guess else ""),
                    destination.subset,
                    "one of " + ", ".join(sorted(defined)) if defined else "a DestinationRule with this subset",
                )
    for index, gateway in enumerate(config.spec.gateways):
        name = gateway if "/" in gateway else f"{config.namespace}/{gateway}"
        if gateway != MESH_GATEWAY and gateway and name not in world.gateways:
            _report(
                findings,
                world.known.complete,
                ("spec", "gateways", index),
                f"leads nowhere: there is no Gateway {name}",
                gateway,
                "mesh",
            )


def _destination_rule(config: Config[DestinationRule], findings: Findings, world: _World) -> None:
    if world.known.hosts is None or config.spec.host.startswith("*"):
        return
    host = qualified(config.spec.host, config.namespace, world.domain)
    ports = world.ports(host)
    if ports is None:
        guess = world.suggestion(host, config.spec.host)
        findings.warn(
            ("spec", "host"),
            "is no Service and no ServiceEntry (yet)" + (f'; did you mean "{guess}"?' if guess else ""),
            value=config.spec.host,
        )
        return
    policies: list[tuple[FieldPath, istio.TrafficPolicy | None]] = [
        (("spec", "trafficPolicy"), config.spec.traffic_policy)
    ]
    policies += [
        (("spec", "subsets", index, "trafficPolicy"), subset.traffic_policy)
        for index, subset in enumerate(config.spec.subsets)
    ]
    for path, policy in policies:
        for index, level in enumerate(policy.port_level_settings if policy else ()):
            if level.port.number not in ports:
                findings.warn(
                    (*path, "portLevelSettings", index, "port", "number"),
                    f"is no port of {host}",
                    value=level.port.number,
                    expected="one of " + ", ".join(map(str, sorted(ports))),
                )


def _http_route(config: Config[Any], findings: Findings, world: _World) -> None:
    """A parent must be there; a backend that is not answers 500 for its share, which Gateway API wants accepted."""
    hosts = world.known.hosts
    if hosts is None:
        return
    strict = world.known.is_strict(config.ref)
    for index, parent in enumerate(config.spec.parent_refs):
        if parent.kind != "Service":
            continue
        path: FieldPath = ("spec", "parentRefs", index)
        namespace = parent.namespace or config.namespace
        host = f"{parent.name}.{namespace}.svc.{world.domain}"
        if host not in hosts:
            services = [name.partition(".")[0] for name in hosts if name.endswith(f".{namespace}.svc.{world.domain}")]
            guess = guess_for(parent.name, services)
            message = f"is no Service of namespace {namespace}" + (f'; did you mean "{guess}"?' if guess else "")
            _report(findings, strict, (*path, "name"), message, parent.name, "a Service")
        elif parent.port is not None and parent.port not in hosts[host]:
            expected = "one of " + ", ".join(map(str, sorted(hosts[host])))
            _report(findings, strict, (*path, "port"), f"is no port of {host}", parent.port, expected)
    for path, backend in _backends(config.spec.rules):
        if backend.kind != "Service" or backend.group not in ("", "core"):
            continue
        share = "so its share of the requests is answered 500"
        if backend.namespace not in ("", config.namespace):
            findings.warn(
                (*path, "namespace"),
                f"needs a ReferenceGrant, which is not supported yet, {share}",
                value=backend.namespace,
            )
            continue
        host = f"{backend.name}.{config.namespace}.svc.{world.domain}"
        if host not in hosts:
            findings.warn(
                (*path, "name"), f"is no Service of namespace {config.namespace}, {share}", value=backend.name
            )
        elif backend.port is not None and backend.port not in hosts[host]:
            findings.warn((*path, "port"), f"is no port of {host}, {share}", value=backend.port)


def _backends(rules: Sequence[Any]) -> Iterator[tuple[FieldPath, Any]]:
    for index, rule in enumerate(rules):
        for number, backend in enumerate(rule.backend_refs):
            yield ("spec", "rules", index, "backendRefs", number), backend
        for number, item in enumerate(rule.filters):
            if item.request_mirror is not None:
                path = ("spec", "rules", index, "filters", number, "requestMirror", "backendRef")
                yield path, item.request_mirror.backend_ref


def _service_entry(config: Config[Any], findings: Findings, world: _World) -> None:
    for index, host in enumerate(config.spec.hosts):
        if host in (world.known.hosts or {}):
            findings.warn(("spec", "hosts", index), "is a Service of the cluster, which keeps its name", value=host)


# === conflicts ===


def _claims(items: Sequence[Item], domain: str) -> None:
    """Istio lets the oldest VirtualService of a host win and drops the others without a word; here that is an error."""
    claims: dict[str, list[Config[VirtualService]]] = {}
    for config, findings in items:
        if config.kind != "VirtualService" or (config.spec.gateways and MESH_GATEWAY not in config.spec.gateways):
            continue
        for index, written in enumerate(config.spec.hosts):
            host = qualified(written, config.namespace, domain)
            for other in claims.setdefault(host, []):
                if other.ref != config.ref and _seen_together(config, other):
                    findings.error(
                        ("spec", "hosts", index),
                        f"is claimed by {_at(other)} already",
                        value=written if written == host else f"{written}, which is {host}",
                        expected="one VirtualService per host, or an exportTo that keeps them apart",
                    )
                    break
            claims[host].append(config)


def _seen_together(one: Config[VirtualService], other: Config[VirtualService]) -> bool:
    """Whether some namespace sees both."""
    first, second = _namespaces(one), _namespaces(other)
    if not first or not second:
        return False
    return "*" in first or "*" in second or bool(first & second)


def _namespaces(config: Config[VirtualService]) -> set[str]:
    targets = config.spec.export_to or ("*",)
    if "~" in targets:
        return set()
    return {config.namespace if target == "." else target for target in targets}


def _subsets_of_one_host(items: Sequence[Item], domain: str) -> None:
    """DestinationRules of one host are merged, and of a subset that two define the older holds."""
    first: dict[tuple[str, str, str], Config[Any]] = {}
    for config, findings in items:
        if config.kind != "DestinationRule":
            continue
        host = qualified(config.spec.host, config.namespace, domain)
        for index, subset in enumerate(config.spec.subsets):
            other = first.setdefault((config.namespace, host, subset.name), config)
            if other.ref != config.ref:
                findings.warn(
                    ("spec", "subsets", index, "name"),
                    f"is defined by {_at(other)} too; the older one holds",
                    value=subset.name,
                )


def _one_per_scope(items: Sequence[Item]) -> None:
    """Of PeerAuthentications and Sidecars with one scope, the oldest holds."""
    first: dict[tuple[str, ...], Config[Any]] = {}
    for config, findings in items:
        if config.kind == "PeerAuthentication":
            labels = config.spec.selector.match_labels if config.spec.selector else {}
        elif config.kind == "Sidecar":
            labels = config.spec.workload_selector.labels if config.spec.workload_selector else {}
        else:
            continue
        scope = (config.kind, config.namespace, *(f"{key}={value}" for key, value in sorted(labels.items())))
        other = first.setdefault(scope, config)
        if other.ref != config.ref:
            findings.warn(
                ("metadata", "name"), f"has the scope of {_at(other)}; the older one holds", value=config.name
            )
