"""The resource set of a view: complete, deterministic, and made of nothing but what the view may see."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from compile_envoy import SYMBOLS, TYPES, Authority, Envoy
from compile_pods import pair
from compile_world import World, bookinfo, host, message, snapshot
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import UpstreamTlsContext

from mesh.compile import Compiler
from mesh.compile.tls import NOBODY
from mesh.registry.types import Port, Registry
from mesh.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE, ResourceSet
from mesh.settings import MeshSettings

RICH = (Path(__file__).parent / "rich.yaml").read_text()
REVIEWS = f"outbound|9080||{host('reviews')}"


def rich_world() -> World:
    world = bookinfo()
    world.service("database", Port(number=3306, name="tcp", protocol="tcp", target=3306), selector={"app": "ratings"})
    world.service(
        "auto",
        Port(number=7000, name="x", protocol="auto", target=7000),
        Port(number=7443, name="tls", protocol="tls", target=7443),
        Port(number=7777, name="g", protocol="grpc", target=7777),
        selector={"app": "reviews"},
    )
    world.service(
        "headless",
        Port(number=5000, name="tcp", protocol="tcp", target=5000),
        Port(number=5001, name="auto", protocol="auto", target=5001),
        address="",
        selector={"app": "reviews"},
    )
    external: dict[str, Any] = {"mesh_external": True, "selector": {}}
    world.service(
        "secure",
        Port(number=443, name="https", protocol="https", target=443),
        Port(number=80, name="http", protocol="http", target=80),
        hostname="secure.example.com",
        address="",
        resolution="dns",
        **external,
    )
    world.service(
        "range",
        Port(number=6000, name="tcp", protocol="tcp", target=6000),
        hostname="range.example.com",
        address="192.0.2.0/24",
        resolution="none",
        **external,
    )
    return world


def named_in(value: Any, field: str) -> set[str]:
    """Every string under fields called `field`, at any depth, packed messages included."""
    if value.DESCRIPTOR.full_name == "google.protobuf.Any":
        inner = SYMBOLS.GetSymbol(value.type_url.rsplit("/", 1)[1])()
        value.Unpack(inner)
        return named_in(inner, field)
    found: set[str] = set()
    for descriptor, item in value.ListFields():
        if descriptor.message_type is None:
            if descriptor.name == field and isinstance(item, str):
                found.add(item)
            continue
        if descriptor.message_type.GetOptions().map_entry:
            if descriptor.message_type.fields_by_name["value"].message_type is None:
                continue
            items = list(item.values())
        else:
            items = list(item) if descriptor.is_repeated else [item]
        for one in items:
            if descriptor.message_type.full_name.endswith("WeightedCluster.ClusterWeight") and field == "cluster":
                found.add(one.name)
            found |= named_in(one, field)
    return found


def assert_closed(resources: ResourceSet) -> None:
    """Everything named is there, and every reference is declared."""
    for kind in (LISTENER, ROUTE):
        for name, item in resources[kind].items():
            decoded = message(item, TYPES[kind])
            clusters = named_in(decoded, "cluster")
            assert clusters <= set(resources[CLUSTER]), name
            assert clusters <= {reference for type_url, reference in item.references if type_url == CLUSTER}, name
            routes = named_in(decoded, "route_config_name")
            assert routes <= set(resources[ROUTE]), name
            assert routes <= {reference for type_url, reference in item.references if type_url == ROUTE}, name
    for name, item in resources[CLUSTER].items():
        if message(item, Cluster).type == Cluster.EDS:
            assert name in resources[ENDPOINT]
            assert (ENDPOINT, name) in item.references
    asked_for = {reference for items in resources.values() for item in items.values() for reference in item.references}
    for kind in (ROUTE, ENDPOINT):
        unasked = {name for name in resources[kind] if (kind, name) not in asked_for}
        assert not unasked, "no proxy asks for these, and an update would wait for it"
    for items in resources.values():
        for item in items.values():
            assert all(reference in resources[type_url] for type_url, reference in item.references), item.name


@pytest.mark.parametrize("workload", ["client", "reviews-v1"])
@pytest.mark.parametrize("policy", ["ALLOW_ANY", "REGISTRY_ONLY"])
def test_everything_named_is_in_the_set(workload: str, policy: Any) -> None:
    assert_closed(rich_world().compile(workload, RICH, MeshSettings(outbound_policy=policy)))


def test_removing_a_subset_leaves_no_dangling_route() -> None:
    config = snapshot(RICH)
    world = rich_world()
    without = [item for item in config.all if item.ref != "DestinationRule/bookinfo/reviews"]
    view = world.view("client")
    resources = Compiler(type(config)(without), world.registry, MeshSettings())(view)
    assert not [name for name in resources[CLUSTER] if "|v1|" in name]
    assert_closed(resources)


def test_equal_input_gives_equal_bytes_in_whatever_order_it_comes() -> None:
    world = rich_world()
    registry = world.registry
    turned = Registry(
        services=dict(reversed(registry.services.items())),
        endpoints=dict(reversed(registry.endpoints.items())),
        workloads=dict(reversed(registry.workloads.items())),
        namespaces=registry.namespaces,
    )
    config = snapshot(RICH)
    view = world.view("reviews-v1")
    one = Compiler(config, registry, MeshSettings())(view)
    two = Compiler(type(config)(reversed(config.all)), turned, MeshSettings())(view)
    assert {kind: dict(items) for kind, items in one.items()} == {kind: dict(items) for kind, items in two.items()}


def test_every_resource_names_its_origin() -> None:
    resources = rich_world().compile("reviews-v1", RICH)
    assert "VirtualService/bookinfo/reviews" in resources[ROUTE]["9080"].origins
    assert "HTTPRoute/bookinfo/ratings" in resources[ROUTE]["9080"].origins
    assert resources[CLUSTER][REVIEWS].origins == ("DestinationRule/bookinfo/reviews",)
    assert "AuthorizationPolicy/bookinfo/allow" in resources[ROUTE]["inbound|9080||"].origins
    assert "RequestAuthentication/bookinfo/jwt" in resources[ROUTE]["inbound|9080||"].origins
    assert "PeerAuthentication/bookinfo/reviews" in resources[LISTENER]["virtualInbound"].origins
    assert "VirtualService/bookinfo/tcp" in resources[LISTENER]["10.96.0.5_3306"].origins


def test_only_what_changed_changes() -> None:
    """A route change touches routes; an endpoint change, endpoints: nothing that would drain a listener."""
    world = bookinfo()
    before = world.compile("client")
    routed = world.compile(
        "client",
        """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: bookinfo}
spec: {hosts: [reviews], http: [{fault: {abort: {httpStatus: 500}}, route: [{destination: {host: reviews}}]}]}
""",
    )
    assert _changed(before, routed) == {(ROUTE, "9080")}
    world.pod("reviews-v4", "10.244.0.99", {"app": "reviews", "version": "v4"})
    assert _changed(before, world.compile("client")) == {(ENDPOINT, REVIEWS)}


def test_a_policy_change_touches_routes_only() -> None:
    world = rich_world()
    config = snapshot(RICH)
    kept = [item for item in config.all if item.kind not in ("AuthorizationPolicy", "RequestAuthentication")]
    view = world.view("reviews-v1")
    without = Compiler(type(config)(kept), world.registry, MeshSettings())(view)
    with_ = Compiler(config, world.registry, MeshSettings())(view)
    http = {name for kind, name in _changed(without, with_) if kind == ROUTE}
    assert {"inbound|9080||", "inbound|7777||"} <= http
    # TCP has no routes: its policies are network filters, and so the listener's.
    assert {(kind, name) for kind, name in _changed(without, with_) if kind != ROUTE} == {(LISTENER, "virtualInbound")}


def _changed(one: ResourceSet, two: ResourceSet) -> set[tuple[str, str]]:
    return {
        (kind, name)
        for kind in one
        for name in {*one[kind], *two[kind]}
        if one[kind].get(name) is None or two[kind].get(name) is None or one[kind][name].body != two[kind][name].body
    }


def test_views_compiled_together_are_what_each_is_alone() -> None:
    world, config = rich_world(), snapshot(RICH)
    views = sorted({world.view(name, namespace) for namespace, name in world.registry.workloads})
    together = Compiler(config, world.registry, MeshSettings())
    assert len(views) > 1
    for view in views:
        assert together(view) == Compiler(config, world.registry, MeshSettings())(view)


def test_views_of_a_namespace_share_clusters_and_endpoints() -> None:
    world = rich_world()
    together = Compiler(snapshot(RICH), world.registry, MeshSettings())
    one, other = together(world.view("client")), together(world.view("reviews-v1"))
    for kind, mine in ((CLUSTER, "outbound|"), (ENDPOINT, "")):
        shared = [name for name in one[kind] if name.startswith(mine)]
        assert shared
        assert all(one[kind][name] is other[kind][name] for name in shared)


# === identity ===


def accepted(resources: ResourceSet, cluster: str) -> list[str]:
    decoded = message(resources[CLUSTER][cluster], Cluster)
    context = UpstreamTlsContext()
    decoded.transport_socket_matches[0].transport_socket.typed_config.Unpack(context)
    validation = context.common_tls_context.combined_validation_context.default_validation_context
    return [san.matcher.exact for san in validation.match_typed_subject_alt_names]


def test_a_client_accepts_the_service_accounts_behind_the_service_and_no_other() -> None:
    world = bookinfo()
    assert accepted(world.compile("client"), REVIEWS) == ["spiffe://cluster.local/ns/bookinfo/sa/bookinfo-reviews"]
    world.pod("reviews-v9", "10.244.0.98", {"app": "reviews", "version": "v9"}, service_account="new", ready=False)
    assert accepted(world.compile("client"), REVIEWS) == [
        "spiffe://cluster.local/ns/bookinfo/sa/bookinfo-reviews",
        "spiffe://cluster.local/ns/bookinfo/sa/new",
    ], "an identity is accepted before its first endpoint is ready"


def test_nobody_stands_behind_an_empty_service() -> None:
    world = bookinfo()
    world.service("empty")
    assert accepted(world.compile("client"), f"outbound|9080||{host('empty')}") == [NOBODY]


def takes_tls(resources: ResourceSet, name: str) -> dict[str, bool]:
    assignment = message(resources[ENDPOINT][name], ClusterLoadAssignment)
    return {
        item.endpoint.address.socket_address.address: "envoy.transport_socket_match" in item.metadata.filter_metadata
        for group in assignment.endpoints
        for item in group.lb_endpoints
    }


def test_tls_is_chosen_per_endpoint() -> None:
    world = bookinfo()
    world.pod("reviews-old", "10.244.0.97", {"app": "reviews", "version": "v0"}, meshed=False)
    disabled = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: v1, namespace: bookinfo}
spec: {selector: {matchLabels: {version: v1, app: reviews}}, portLevelMtls: {9080: {mode: DISABLE}}}
"""
    assert takes_tls(world.compile("client", disabled), REVIEWS) == {
        "10.244.0.6": False,
        "10.244.0.7": True,
        "10.244.0.8": True,
        "10.244.0.97": False,
    }


def test_a_change_of_who_takes_tls_makes_new_connections() -> None:
    """Envoy keeps using a pooled connection whatever becomes of its endpoint's metadata; a changed cluster has none."""
    disabled = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: reviews, namespace: bookinfo}
spec: {selector: {matchLabels: {app: reviews}}, mtls: {mode: DISABLE}}
"""
    world = bookinfo()
    assert _changed(world.compile("client"), world.compile("client", disabled)) == {
        (CLUSTER, REVIEWS),
        (ENDPOINT, REVIEWS),
    }
    assert not _changed(world.compile("client"), world.compile("client", disabled.replace("DISABLE", "STRICT")))


# === visibility ===


def test_export_to_hides_a_service_and_its_routes() -> None:
    world = bookinfo()
    world.service("private", export_to=("elsewhere",))
    world.service("hidden", export_to=("~",))
    names = set(world.compile("client")[CLUSTER])
    assert not [name for name in names if "private" in name or "hidden" in name]


def test_a_sidecar_limits_what_is_seen() -> None:
    world = bookinfo()
    sidecar = """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: bookinfo}
spec: {egress: [{hosts: ["./ratings.bookinfo.svc.cluster.local"]}], outboundTrafficPolicy: {mode: REGISTRY_ONLY}}
"""
    resources = world.compile("client", sidecar)
    assert {name for name in resources[CLUSTER] if name.startswith("outbound")} == {f"outbound|9080||{host('ratings')}"}
    routes = message(resources[ROUTE]["9080"], RouteConfiguration)
    assert [item.name for item in routes.virtual_hosts] == [f"{host('ratings')}:9080", "block_all"]
    assert routes.virtual_hosts[-1].routes[0].direct_response.status == 502
    assert_closed(resources)


def test_the_oldest_virtual_service_owns_a_host() -> None:
    def virtual_service(name: str, status: int) -> str:
        return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: bookinfo}}
spec: {{hosts: [reviews], http: [{{directResponse: {{status: {status}}}}}]}}
"""

    for (first, status), (second, other) in itertools.permutations([("b", 201), ("a", 202)]):
        resources = bookinfo().compile(
            "client", virtual_service(first, status) + "---" + virtual_service(second, other)
        )
        routes = message(resources[ROUTE]["9080"], RouteConfiguration)
        found = next(item for item in routes.virtual_hosts if item.name.startswith("reviews"))
        assert [route.direct_response.status for route in found.routes] == [status]


def test_a_consumer_route_is_for_its_own_namespace() -> None:
    world = bookinfo()
    world.pod("guest", "10.244.1.1", {"app": "guest"}, namespace="guests")
    route = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews, namespace: guests}
spec:
  parentRefs: [{group: "", kind: Service, name: reviews, namespace: bookinfo, port: 9080}]
  rules: [{filters: [{type: RequestRedirect, requestRedirect: {hostname: guests.example}}]}]
"""

    def redirected(view: Any) -> bool:
        resources = Compiler(snapshot(route), world.registry, MeshSettings())(view)
        routes = message(resources[ROUTE]["9080"], RouteConfiguration)
        found = next(item for item in routes.virtual_hosts if item.name.startswith("reviews"))
        return bool(found.routes[0].redirect.host_redirect)

    assert redirected(world.view("guest", "guests"))
    assert not redirected(world.view("client"))


# === a real Envoy ===


@pytest.mark.privileged
@pytest.mark.parametrize("policy", ["ALLOW_ANY", "REGISTRY_ONLY"])
@pytest.mark.parametrize("workload", ["client", "reviews-v1"])
def test_envoy_takes_one_of_everything(tmp_path: Path, workload: str, policy: Any) -> None:
    resources = rich_world().compile(workload, RICH, MeshSettings(outbound_policy=policy))
    authority = Authority()
    certificate = authority.issue("spiffe://cluster.local/ns/bookinfo/sa/x")
    with pair("10.244.0.2", "10.244.0.3") as (pod, _):
        envoy = Envoy(
            tmp_path,
            resources,
            certificate=certificate,
            roots=authority.pem,
            prefix=tuple(pod.inside()),
            call=pod.call,
        )
        try:
            envoy.start()
            names = envoy.admin("/config_dump?resource=dynamic_listeners&mask=name,error_state")
            assert all(f'"{name}"' in names for name in resources[LISTENER])
            assert envoy.complaints() == []
        finally:
            envoy.stop()


def test_settings_are_all_that_differs_between_meshes() -> None:
    world = bookinfo()
    other = MeshSettings(trust_domain="other.example", telemetry=False, access_log_path="")
    resources = world.compile("client", settings=other)
    assert accepted(resources, REVIEWS) == ["spiffe://other.example/ns/bookinfo/sa/bookinfo-reviews"]
    assert not named_in(message(resources[LISTENER]["0.0.0.0_9080"], TYPES[LISTENER]), "path")
