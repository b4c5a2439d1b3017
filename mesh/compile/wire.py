"""Small constructors for the protobuf messages every generator uses. Messages are built directly: going through
dicts costs ten times as much."""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3.address_pb2 import Address, CidrRange, SocketAddress
from envoy.config.core.v3.base_pb2 import DataSource, HeaderValue, HeaderValueOption, RuntimeFractionalPercent
from envoy.config.core.v3.config_source_pb2 import AggregatedConfigSource, ApiVersion, ConfigSource
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.v3.percent_pb2 import FractionalPercent
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from mesh.model.matching import StringMatch

TRUE = BoolValue(value=True)
FALSE = BoolValue(value=False)


def ads() -> Any:
    """Fetched over the one ADS stream. A missing resource blocks no longer than Envoy's first-fetch limit, 15 s."""
    return ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)


def packed(message: Any) -> Any:
    """`message` in an Any, with deterministic bytes whatever maps it holds."""
    result = AnyMessage()
    result.Pack(message, deterministic=True)
    return result


def milliseconds(value: float) -> Any:
    nanos = round(value * 1_000_000)
    return Duration(seconds=nanos // 1_000_000_000, nanos=nanos % 1_000_000_000)


def seconds(value: float) -> Any:
    return milliseconds(value * 1000)


def u32(value: int) -> Any:
    return UInt32Value(value=value)


def address(host: str, port: int) -> Any:
    return Address(socket_address=SocketAddress(address=host, port_value=port))


def inline(text: str) -> Any:
    return DataSource(inline_string=text)


def cidr(text: str) -> Any:
    """`10.0.0.0/8` or a bare address."""
    host, slash, length = text.partition("/")
    bits = int(length) if slash else (128 if ":" in host else 32)
    return CidrRange(address_prefix=host, prefix_len=u32(bits))


def string_matcher(match: StringMatch) -> Any:
    if match.kind == "exact":
        return StringMatcher(exact=match.value, ignore_case=match.ignore_case)
    if match.kind == "prefix":
        return StringMatcher(prefix=match.value, ignore_case=match.ignore_case)
    if match.kind == "suffix":
        return StringMatcher(suffix=match.value, ignore_case=match.ignore_case)
    if match.kind == "regex":
        return StringMatcher(safe_regex=RegexMatcher(regex=match.value))
    raise ValueError(f"a {match.kind!r} match has no string matcher; use a presence match")


def percent(value: float) -> Any:
    """`value` per cent, to the millionth: rounded, never to zero from something."""
    return FractionalPercent(numerator=round(value * 10_000), denominator=FractionalPercent.MILLION)


def runtime_percent(value: float) -> Any:
    return RuntimeFractionalPercent(default_value=percent(value))


def header_set(name: str, value: str) -> Any:
    return HeaderValueOption(
        header=HeaderValue(key=name, value=value), append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    )


def header_add(name: str, value: str) -> Any:
    return HeaderValueOption(
        header=HeaderValue(key=name, value=value), append_action=HeaderValueOption.APPEND_IF_EXISTS_OR_ADD
    )
