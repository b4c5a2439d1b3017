"""What a proxy reports of each request: Istio's standard metrics, and one JSON log entry.

Counting is done by Envoy's stats access logger, so a request is counted exactly once, when it ends, with what was then
known of it. The principal a server reports comes from the certificate it verified; the peer's workload, app and
version are what the peer's proxy says of itself inside mutual TLS. Facts about the proxy's own workload are constants
of the view.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from typing import Any, Literal

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog, AccessLogFilter, ResponseFlagFilter
from envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog
from envoy.extensions.access_loggers.stats.v3.stats_pb2 import Config as StatsLog
from google.protobuf.struct_pb2 import Struct

from mesh.compile.endpoints import canonical_revision, canonical_service
from mesh.compile.wire import packed
from mesh.model.context import Context
from mesh.model.hosts import spiffe_id
from mesh.settings import PEER_METADATA, STATS_PREFIX, WORKLOAD_NAME_ENV

Direction = Literal["inbound", "outbound"]
Security = Literal["mutual_tls", "none", "unknown"]

UNKNOWN = "unknown"

_SAID = {
    "workload": "workload",
    "workload_namespace": "namespace",
    "app": "app",
    "version": "version",
    "canonical_service": "app",
    "canonical_revision": "version",
}
"""A label's name to the fact of the peer's that it shows."""

_COMMON_FIELDS = {
    "start_time": "%START_TIME%",
    "duration": "%DURATION%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "response_flags": "%RESPONSE_FLAGS%",
    "upstream_cluster": "%UPSTREAM_CLUSTER%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "requested_server_name": "%REQUESTED_SERVER_NAME%",
    "route_name": "%ROUTE_NAME%",
}
_HTTP_FIELDS = {
    "authority": "%REQ(:AUTHORITY)%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(:PATH)%",
    "protocol": "%PROTOCOL%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "response_code": "%RESPONSE_CODE%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "user_agent": "%REQ(USER-AGENT)%",
    "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
    "upstream_attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
}
_PEER = {"inbound": "%DOWNSTREAM_PEER_URI_SAN%", "outbound": "%UPSTREAM_PEER_URI_SAN%"}


@cache
def _json_log(path: str, direction: Direction, http: bool) -> Any:
    """Shared by whoever asks for the same: to be copied, not changed."""
    fields = Struct()
    wanted = {**_COMMON_FIELDS, **(_HTTP_FIELDS if http else {}), "peer_principal": _PEER[direction]}
    for name, command in sorted(wanted.items()):
        fields[name] = command
    fields["direction"] = direction
    return AccessLog(
        name="envoy.access_loggers.file",
        typed_config=packed(
            FileAccessLog(
                path=path,
                log_format=SubstitutionFormatString(json_format=fields),
            )
        ),
    )


def refused_connections(context: Context) -> tuple[Any, ...]:
    """A listener's log of connections no filter chain took: plaintext to a STRICT port, for one."""
    if not context.settings.access_log_path:
        return ()
    log = AccessLog()
    log.CopyFrom(_json_log(context.settings.access_log_path, "inbound", http=False))
    log.filter.CopyFrom(AccessLogFilter(response_flag_filter=ResponseFlagFilter(flags=["NR"])))
    return (log,)


def peer_header(context: Context) -> str:
    """The value of `PEER_HEADER`, as an Envoy format string."""
    labels = context.labels
    facts = (
        f"%ENVIRONMENT({WORKLOAD_NAME_ENV})%",
        context.view.namespace,
        labels.get("app", UNKNOWN),
        labels.get("version", UNKNOWN),
    )
    return ";".join(facts)


class Reporter:
    """The access loggers of one view."""

    def __init__(self, context: Context) -> None:
        self._context = context
        labels = context.labels
        self._own = {
            "workload": f"%ENVIRONMENT({WORKLOAD_NAME_ENV})%",
            "workload_namespace": context.view.namespace,
            "app": labels.get("app", UNKNOWN),
            "version": labels.get("version", UNKNOWN),
            "canonical_service": canonical_service(labels, f"%ENVIRONMENT({WORKLOAD_NAME_ENV})%"),
            "canonical_revision": canonical_revision(labels),
        }
        self._principal = spiffe_id(context.settings.trust_domain, context.view.namespace, context.view.service_account)

    def http_server(self, service: tuple[str, str, str], protocol: str, security: Security) -> tuple[Any, ...]:
        """`service` is its host, name and namespace, as constants or format commands."""
        return self._logs("inbound", self._server_tags(service, protocol, security), http=True)

    @cached_property
    def http_client(self) -> tuple[Any, ...]:
        return self._logs("outbound", self._client_tags("http"), http=True)

    def tcp_server(self, service: tuple[str, str, str], security: Security) -> tuple[Any, ...]:
        return self._logs("inbound", self._server_tags(service, "tcp", security), http=False)

    @cached_property
    def tcp_client(self) -> tuple[Any, ...]:
        return self._logs("outbound", self._client_tags("tcp"), http=False)

    def _server_tags(self, service: tuple[str, str, str], protocol: str, security: Security) -> dict[str, str]:
        mutual = security == "mutual_tls"
        tags = {
            "reporter": "destination",
            "source_principal": "%DOWNSTREAM_PEER_URI_SAN%" if mutual else UNKNOWN,
            "destination_principal": self._principal if mutual else UNKNOWN,
            "connection_security_policy": security,
            "request_protocol": protocol,
        }
        tags.update({f"destination_{name}": value for name, value in self._own.items()})
        http = mutual and protocol != "tcp"
        for name in self._own:
            tags[f"source_{name}"] = f"%DYNAMIC_METADATA({PEER_METADATA}:{_SAID[name]})%" if http else UNKNOWN
        tags["destination_service"], tags["destination_service_name"], tags["destination_service_namespace"] = service
        return tags

    def _client_tags(self, protocol: str) -> dict[str, str]:
        tags = {
            "reporter": "source",
            "source_principal": "%UPSTREAM_LOCAL_URI_SAN%",
            "destination_principal": "%UPSTREAM_PEER_URI_SAN%",
            "connection_security_policy": UNKNOWN,
            "request_protocol": "%CLUSTER_METADATA(istio:protocol)%" if protocol == "http" else protocol,
            "destination_service": "%CLUSTER_METADATA(istio:service)%",
            "destination_service_name": "%CLUSTER_METADATA(istio:service_name)%",
            "destination_service_namespace": "%CLUSTER_METADATA(istio:service_namespace)%",
            "destination_workload": "%UPSTREAM_METADATA(istio:workload)%",
            "destination_workload_namespace": "%UPSTREAM_METADATA(istio:namespace)%",
            "destination_app": "%UPSTREAM_METADATA(istio:app)%",
            "destination_version": "%UPSTREAM_METADATA(istio:version)%",
            "destination_canonical_service": "%UPSTREAM_METADATA(istio:canonical_service)%",
            "destination_canonical_revision": "%UPSTREAM_METADATA(istio:canonical_revision)%",
        }
        tags.update({f"source_{name}": value for name, value in self._own.items()})
        return tags

    def _logs(self, direction: Direction, tags: dict[str, str], http: bool) -> tuple[Any, ...]:
        logs = []
        if self._context.settings.access_log_path:
            logs.append(_json_log(self._context.settings.access_log_path, direction, http))
        if self._context.settings.telemetry:
            tags = {**tags, "response_flags": "%RESPONSE_FLAGS%"}
            if http:
                tags["response_code"] = "%RESPONSE_CODE%"
                tags["grpc_response_status"] = "%GRPC_STATUS_NUMBER%"
            labels = [StatsLog.Tag(name=name, value_format=value) for name, value in sorted(tags.items())]
            if http:
                counters = [_counter("requests_total", labels, fixed=1)]
                histograms = [_histogram("request_duration_milliseconds", labels, "%DURATION%")]
            else:
                counters = [
                    _counter("tcp_connections_closed_total", labels, fixed=1),
                    _counter("tcp_received_bytes_total", labels, value="%BYTES_RECEIVED%"),
                    _counter("tcp_sent_bytes_total", labels, value="%BYTES_SENT%"),
                ]
                histograms = []
            logs.append(
                AccessLog(
                    name="envoy.access_loggers.stats",
                    typed_config=packed(StatsLog(stat_prefix=STATS_PREFIX, counters=counters, histograms=histograms)),
                )
            )
        return tuple(logs)


def _counter(name: str, tags: Sequence[Any], *, fixed: int | None = None, value: str = "") -> Any:
    message = StatsLog.Counter(stat=StatsLog.Stat(name=name, tags=tags), value_format=value)
    if fixed is not None:
        message.value_fixed.value = fixed
    return message


def _histogram(name: str, tags: Sequence[Any], value: str) -> Any:
    return StatsLog.Histogram(
        stat=StatsLog.Stat(name=name, tags=tags),
        unit=StatsLog.Histogram.Milliseconds,
        value_format=value,
    )
