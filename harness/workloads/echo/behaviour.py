"""Instructions that a request carries, and what they come to. Pure."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import parse_qsl

import msgspec

from harness.workloads.echo.protocol import MAX_BODY, PREFIX, QUERY_PREFIX, Outcome, Pairs
from harness.workloads.http1 import Fate

MAX_DELAY_MS = 600_000.0
MAX_TOKEN = 128

NAMES = frozenset({"delay", "status", "fail", "fail-status", "fail-how", "token", "reset", "close", "header", "size"})


class Instructions(msgspec.Struct, frozen=True, kw_only=True):
    delay_ms: float = 0.0
    status: int | None = None
    fail: int = 0
    fail_status: int | None = None
    fail_how: Literal["status", "reset", "close"] = "status"
    token: str = ""
    reset: Literal["", "now", "mid"] = ""
    close: Literal["", "now", "mid"] = ""
    headers: tuple[tuple[str, str], ...] = ()
    size: int | None = None


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do with one request. `status` None is the protocol's success."""

    delay_ms: float = 0.0
    status: int | None = None
    fate: Fate = "answer"
    outcome: Outcome = "answered"
    headers: tuple[tuple[str, str], ...] = ()
    size: int | None = None


class InvalidInstruction(ValueError):
    """An instruction has no meaning; the message names it, its value, and what was expected."""


NOTHING = Instructions()
PLAIN = Plan()


def instructions(headers: Pairs, target: str) -> Instructions:
    """What `headers` and the query of `target` say; a header wins. Raises `InvalidInstruction`."""
    given: list[tuple[str, str]] = []
    for name, value in headers:
        if len(name) > len(PREFIX) and name[: len(PREFIX)].lower() == PREFIX:
            given.append((name[len(PREFIX) :].lower(), value))
    if QUERY_PREFIX in target:
        query = target.partition("?")[2]
        by_header = {name for name, _ in given}
        given += [
            (name[len(QUERY_PREFIX) :], value)
            for name, value in _parameters(query)
            if name.startswith(QUERY_PREFIX) and name[len(QUERY_PREFIX) :] not in by_header
        ]
    return _read(given) if given else NOTHING


def line_instructions(line: bytes) -> tuple[Instructions, bytes]:
    """Of a raw TCP line: `?echo-delay=5&echo-token=x rest` gives the instructions and `rest`."""
    if not line.startswith(b"?"):
        return NOTHING, line
    query, _, rest = line[1:].partition(b" ")
    given = [
        (name[len(QUERY_PREFIX) :], value)
        for name, value in _parameters(query.decode("latin-1"))
        if name.startswith(QUERY_PREFIX)
    ]
    return _read(given), rest


def plan(told: Instructions, attempt: int) -> Plan:
    """What becomes of the `attempt`-th request with its token."""
    if told is NOTHING:
        return PLAIN
    if told.fail and attempt <= told.fail:
        if told.fail_how == "status":
            return Plan(
                delay_ms=told.delay_ms,
                status=told.fail_status if told.fail_status is not None else -1,
                outcome="failed",
                headers=told.headers,
            )
        return _ended(told, told.fail_how, "now")
    if told.reset:
        return _ended(told, "reset", told.reset)
    if told.close:
        return _ended(told, "close", told.close)
    return Plan(delay_ms=told.delay_ms, status=told.status, headers=told.headers, size=told.size)


def _ended(told: Instructions, how: Literal["reset", "close"], when: Literal["now", "mid"]) -> Plan:
    fates: dict[tuple[str, str], Fate] = {
        ("reset", "now"): "reset",
        ("reset", "mid"): "reset-mid",
        ("close", "now"): "close",
        ("close", "mid"): "close-mid",
    }
    return Plan(
        delay_ms=told.delay_ms,
        status=told.status,
        fate=fates[how, when],
        outcome="reset" if how == "reset" else "closed",
        headers=told.headers,
        size=told.size,
    )


def _parameters(query: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query, keep_blank_values=True, max_num_fields=100)
    except ValueError as exc:
        raise InvalidInstruction(f"query: {exc}") from None


def _read(given: list[tuple[str, str]]) -> Instructions:
    fields: dict[str, object] = {}
    added: list[tuple[str, str]] = []
    for name, value in given:
        match name:
            case "delay":
                fields["delay_ms"] = _number(name, value, 0.0, MAX_DELAY_MS)
            case "status" | "fail-status":
                fields[name.replace("-", "_")] = int(_number(name, value, 0, 599))
            case "fail":
                fields["fail"] = int(_number(name, value, 0, 1_000_000))
            case "size":
                fields["size"] = int(_number(name, value, 0, MAX_BODY))
            case "fail-how":
                fields["fail_how"] = _one_of(name, value, ("status", "reset", "close"))
            case "reset" | "close":
                fields[name] = _one_of(name, value, ("now", "mid"))
            case "token":
                if not 0 < len(value) <= MAX_TOKEN:
                    raise InvalidInstruction(f"token: {len(value)} characters; expected 1 to {MAX_TOKEN}")
                fields["token"] = value
            case "header":
                header, colon, content = value.partition(":")
                if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~\w-]{1,128}", header, re.ASCII):
                    raise InvalidInstruction(f"header: {value[:80]!r}; expected `Name: value`")
                if re.search(r"[\r\n\0]", content):
                    raise InvalidInstruction(f"header {header}: control characters in its value")
                added.append((header, content.strip()))
            case _:
                raise InvalidInstruction(f"{name[:80]!r} is no instruction; there are {', '.join(sorted(NAMES))}")
    if added:
        fields["headers"] = tuple(added)
    if fields.get("fail") and not fields.get("token"):
        raise InvalidInstruction("fail needs a token, by which attempts are counted")
    return msgspec.convert(fields, Instructions)


def _number(name: str, value: str, low: float, high: float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not low <= number <= high:
        raise InvalidInstruction(f"{name}: {value[:80]!r}; expected a number from {low:g} to {high:g}")
    return number


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise InvalidInstruction(f"{name}: {value[:80]!r}; expected {', '.join(choices)}")
    return value
