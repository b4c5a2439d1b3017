"""Meshes that connect other than they were told: balance, limits, ejection, who is let in with which certificate."""

from __future__ import annotations

from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, tls_pb2
from google.protobuf.message import Message

from harness.conformance.mutants.xds import (
    CLUSTER,
    SECRET,
    changing,
    copied,
    dropping,
    inbound,
    keep,
    mutant,
    parts,
    whole,
    within,
)

clusters = whole(CLUSTER)
secrets = whole(SECRET)

# --- upstream


dropping("drop-outlier-detection", clusters, "outlier_detection")
dropping("drop-circuit-breakers", clusters, "circuit_breakers")


@changing("eject-forever", clusters)
def _eject_forever(cluster: Any) -> None:
    if cluster.HasField("outlier_detection"):
        cluster.outlier_detection.base_ejection_time.FromSeconds(3600)
        cluster.outlier_detection.max_ejection_time.FromSeconds(3600)


@changing("random-balancing", clusters)
def _random_balancing(cluster: Any) -> None:
    if cluster.type != cluster_pb2.Cluster.ORIGINAL_DST and cluster.lb_policy != cluster_pb2.Cluster.CLUSTER_PROVIDED:
        cluster.lb_policy = cluster_pb2.Cluster.RANDOM
        cluster.ClearField("load_balancing_policy")


@changing("plaintext-outbound", clusters)
def _plaintext_outbound(cluster: Any) -> None:
    if cluster.name.startswith("outbound|"):
        cluster.ClearField("transport_socket")
        del cluster.transport_socket_matches[:]


@changing("accept-any-san", clusters)
def _accept_any_san(cluster: Any) -> None:
    for context, save in within(cluster, common_pb2.CertificateValidationContext):
        context.ClearField("match_typed_subject_alt_names")
        context.ClearField("match_subject_alt_names")
        save()


# --- downstream


@changing("accept-any-certificate", inbound)
def _accept_any_certificate(listener: Any) -> None:
    """Any client certificate will do, or none: encrypted, but not authenticated."""
    for context, save in within(listener, tls_pb2.DownstreamTlsContext):
        context.require_client_certificate.value = False
        for kind in ("validation_context", "validation_context_sds_secret_config", "combined_validation_context"):
            context.common_tls_context.ClearField(kind)
        save()


@changing("inbound-takes-plaintext", inbound)
def _inbound_takes_plaintext(listener: Any) -> None:
    """For every TLS filter chain, one that does the same without TLS: STRICT in name only."""

    def port(chain: Any) -> int:
        return int(chain.filter_chain_match.destination_port.value)

    taken = {port(chain) for chain in listener.filter_chains if not chain.HasField("transport_socket")}
    for chain in [copied(chain) for chain in listener.filter_chains if chain.HasField("transport_socket")]:
        if port(chain) not in taken:
            taken.add(port(chain))
            chain.name = f"{chain.name}-plain"
            chain.ClearField("transport_socket")
            chain.filter_chain_match.ClearField("application_protocols")
            chain.filter_chain_match.transport_protocol = "raw_buffer"
            listener.filter_chains.append(chain)


@changing("inbound-refuses-plaintext", inbound)
def _inbound_refuses_plaintext(listener: Any) -> None:
    keep(listener.filter_chains, lambda chain: chain.HasField("transport_socket"))


@mutant("inbound-refuses-mesh")
def _inbound_refuses_mesh(type_url: str, resource: Message) -> Message | None:
    for listener, _ in inbound(type_url, resource):
        keep(listener.filter_chains, lambda chain: not chain.HasField("transport_socket"))
        if not listener.filter_chains:
            return None
    return resource


@changing("hide-peer-identity", parts(hcm_pb2.HttpConnectionManager))
def _hide_peer_identity(manager: Any) -> None:
    manager.forward_client_cert_details = hcm_pb2.HttpConnectionManager.SANITIZE
    manager.ClearField("set_current_client_cert_details")


@changing("broken-leaf", secrets)
def _broken_leaf(secret: Any) -> None:
    """After a rotation workloads get no usable certificate: the chain is cut short."""
    if secret.HasField("tls_certificate"):
        chain = secret.tls_certificate.certificate_chain
        chain.inline_bytes = chain.inline_bytes[: len(chain.inline_bytes) // 2]
