"""Hand-made bytes are what protobuf would have made, as far as a reader can tell."""

from __future__ import annotations

from envoy.service.discovery.v3 import discovery_pb2
from xds_build import res

from mesh.resource import CLUSTER, SECRET, Resource
from mesh.xds.wire import Push, Writer

BIG = Resource(name="b" * 300, type_url=CLUSTER, body=b"x" * 70_000, version="v" * 200)
EMPTY = Resource(name="empty", type_url=CLUSTER, body=b"", version="0")


def push(*resources: Resource, removed: tuple[str, ...] = (), nonce: str = "1f") -> Push:
    return Push(type_url=CLUSTER, nonce=nonce, version="abc", resources=resources, removed=removed)


def test_a_delta_response_reads_back() -> None:
    message = discovery_pb2.DeltaDiscoveryResponse.FromString(
        Writer().delta(push(res("a"), BIG, EMPTY, removed=("g",)))
    )
    assert (message.type_url, message.nonce, message.system_version_info) == (CLUSTER, "1f", "abc")
    assert [(r.name, r.version, r.resource.type_url, r.resource.value) for r in message.resources] == [
        ("a", "1", CLUSTER, b"a@1"),
        (BIG.name, BIG.version, CLUSTER, BIG.body),
        ("empty", "0", CLUSTER, b""),
    ]
    assert list(message.removed_resources) == ["g"]


def test_a_state_of_the_world_response_reads_back() -> None:
    message = discovery_pb2.DiscoveryResponse.FromString(Writer().sotw(push(res("a"), BIG)))
    assert (message.type_url, message.nonce, message.version_info) == (CLUSTER, "1f", "abc")
    assert [(any_.type_url, any_.value) for any_ in message.resources] == [(CLUSTER, b"a@1"), (CLUSTER, BIG.body)]


def test_streams_share_a_payload_and_nothing_of_each_other() -> None:
    writer = Writer()
    first, second = writer.delta(push(res("a"), nonce="1")), writer.delta(push(res("a"), nonce="2"))
    read = discovery_pb2.DeltaDiscoveryResponse.FromString
    assert (read(first).nonce, read(second).nonce) == ("1", "2")
    other = discovery_pb2.DiscoveryResponse.FromString(writer.sotw(push(res("a"))))
    assert other.resources[0].value == b"a@1", "the other variant has a payload of its own"
    assert read(writer.delta(push(res("a", "2")))).resources[0].version == "2"


def test_secrets_are_not_kept() -> None:
    writer = Writer()
    writer.delta(Push(type_url=SECRET, nonce="1", version="v", resources=(res("default", type_url=SECRET),)))
    assert not writer._cache
