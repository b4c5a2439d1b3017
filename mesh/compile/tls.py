"""Transport sockets: the mesh's own mutual TLS on both sides, and the TLS a DestinationRule asks for.

Certificates and the trust bundle come by SDS over the ADS stream, under `default` and `ROOTCA`. The server accepts
any identity of the trust domain and hands it to authorization; the client accepts only the service accounts that
stand behind the destination.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envoy.config.core.v3.base_pb2 import DataSource, TransportSocket
from envoy.extensions.transport_sockets.raw_buffer.v3.raw_buffer_pb2 import RawBuffer
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import (
    CertificateValidationContext,
    SubjectAltNameMatcher,
    TlsCertificate,
    TlsParameters,
)
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import SdsSecretConfig
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import CommonTlsContext, DownstreamTlsContext, UpstreamTlsContext

from mesh.compile.wire import TRUE, ads, packed, string_matcher
from mesh.model.matching import StringMatch, exact
from mesh.settings import ALPN_HTTP1, ALPN_HTTP2, ALPN_TCP, ROOT_SECRET, WORKLOAD_SECRET, MeshSettings

TLS = "envoy.transport_sockets.tls"
RAW = "envoy.transport_sockets.raw_buffer"

NOBODY = "spiffe://nobody"
"""Matched by no certificate of the mesh: what a client accepts of a service no service account stands behind. An
empty list would accept everyone."""

CLIENT_ALPN = {
    "http": (ALPN_HTTP1, "http/1.1"),
    "http2": (ALPN_HTTP2, "h2"),
    "tcp": (ALPN_TCP,),
}
"""Offered by the client proxy, by what the cluster speaks."""

SERVER_ALPN_HTTP = ("h2", "http/1.1")
SERVER_ALPN_TCP = (ALPN_TCP,)


def _parameters() -> Any:
    """TLS 1.2 at least, 1.3 whenever both can (always, inside the mesh); P-256 first."""
    return TlsParameters(
        tls_minimum_protocol_version=TlsParameters.TLSv1_2,
        tls_maximum_protocol_version=TlsParameters.TLSv1_3,
        ecdh_curves=["P-256", "X25519"],
    )


def _sds(name: str) -> Any:
    return SdsSecretConfig(name=name, sds_config=ads())


def _uri(match: StringMatch) -> Any:
    return SubjectAltNameMatcher(san_type=SubjectAltNameMatcher.URI, matcher=string_matcher(match))


def _mesh_validation(sans: Sequence[StringMatch]) -> Any:
    return CommonTlsContext.CombinedCertificateValidationContext(
        default_validation_context=CertificateValidationContext(
            match_typed_subject_alt_names=[_uri(match) for match in sans]
        ),
        validation_context_sds_secret_config=_sds(ROOT_SECRET),
    )


def _socket(name: str, message: Any) -> Any:
    return TransportSocket(name=name, typed_config=packed(message))


def raw_buffer() -> Any:
    return _socket(RAW, RawBuffer())


def mesh_client(sni: str, identities: Sequence[str], protocol: str) -> Any:
    """Mutual TLS to another proxy of the mesh that must prove one of `identities`."""
    return _socket(
        TLS,
        UpstreamTlsContext(
            sni=sni,
            common_tls_context=CommonTlsContext(
                tls_params=_parameters(),
                alpn_protocols=CLIENT_ALPN[protocol],
                tls_certificate_sds_secret_configs=[_sds(WORKLOAD_SECRET)],
                combined_validation_context=_mesh_validation([exact(name) for name in identities or (NOBODY,)]),
            ),
        ),
    )


def mesh_server(settings: MeshSettings, alpn: Sequence[str]) -> Any:
    """Mutual TLS from any workload of the trust domain. No session resumption: every connection proves its identity
    against the trust bundle of now."""
    return _socket(
        TLS,
        DownstreamTlsContext(
            require_client_certificate=TRUE,
            disable_stateless_session_resumption=True,
            disable_stateful_session_resumption=True,
            common_tls_context=CommonTlsContext(
                tls_params=_parameters(),
                alpn_protocols=alpn,
                tls_certificate_sds_secret_configs=[_sds(WORKLOAD_SECRET)],
                combined_validation_context=_mesh_validation(
                    [StringMatch(kind="prefix", value=f"spiffe://{settings.trust_domain}/")]
                ),
            ),
        ),
    )


def originated(
    *,
    sni: str,
    ca_file: str,
    identities: Sequence[str] = (),
    certificate: str = "",
    key: str = "",
    skip_verify: bool = False,
    alpn: Sequence[str] = (),
) -> Any:
    """TLS that the DestinationRule asks for (`SIMPLE`, `MUTUAL`): files are paths inside the proxy's container."""
    common = CommonTlsContext(tls_params=_parameters(), alpn_protocols=alpn)
    if not skip_verify:
        context = common.validation_context
        context.trusted_ca.CopyFrom(DataSource(filename=ca_file))
        for name in identities:
            kind = SubjectAltNameMatcher.URI if "://" in name else SubjectAltNameMatcher.DNS
            context.match_typed_subject_alt_names.append(
                SubjectAltNameMatcher(san_type=kind, matcher=string_matcher(exact(name)))
            )
    if certificate:
        common.tls_certificates.append(
            TlsCertificate(certificate_chain=DataSource(filename=certificate), private_key=DataSource(filename=key))
        )
    return _socket(TLS, UpstreamTlsContext(sni=sni, common_tls_context=common))
