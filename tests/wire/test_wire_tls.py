"""What counts as TLS on the wire, judged on conversations of a real TLS library and on imitations."""

from __future__ import annotations

import random
import ssl
from pathlib import Path

import pytest

from harness.wire.tls import Assessment, Scanner, assess
from tests.wire.conversation import Turn, certificate, tls

HTTP = b"GET /productpage HTTP/1.1\r\nhost: productpage\r\n\r\n"


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("pem"))


def judge(turns: list[Turn], chunk: int = 1 << 20) -> Assessment:
    sides = {"up": Scanner(), "down": Scanner()}
    for way, data in turns:
        for at in range(0, len(data), chunk):
            sides[way].feed(data[at : at + chunk])
    return assess(sides["up"], sides["down"])


@pytest.mark.parametrize("chunk", [1, 7, 1400, 1 << 20])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2])
def test_real_mutual_tls_is_established_however_it_is_cut(pem: Path, version: ssl.TLSVersion, chunk: int) -> None:
    seen = judge(tls(pem, version=version, alpn=["istio-http/1.1", "istio"]), chunk)
    assert (seen.state, seen.reason) == ("established", "")
    assert seen.alpn == ("istio-http/1.1", "istio")
    assert seen.sni == "peer"
    assert seen.version == {ssl.TLSVersion.TLSv1_3: "TLS 1.3", ssl.TLSVersion.TLSv1_2: "TLS 1.2"}[version]
    assert seen.client_certificate


def test_hello_retry_request_is_followed(pem: Path) -> None:
    turns = tls(pem, curve="secp521r1")
    assert sum(1 for way, _ in turns if way == "up") >= 3, "the server did not ask for another hello"
    assert judge(turns).state == "established"


def test_tls_12_without_a_client_certificate_is_seen_to_be_without(pem: Path) -> None:
    seen = judge(tls(pem, version=ssl.TLSVersion.TLSv1_2, client_certificate=False))
    assert seen.state == "established"
    assert not seen.client_certificate


def test_a_suite_that_does_not_encrypt_is_not_tls(pem: Path) -> None:
    try:
        turns = tls(pem, version=ssl.TLSVersion.TLSv1_2, ciphers="ECDHE-ECDSA-NULL-SHA:@SECLEVEL=0")
    except ssl.SSLError:
        pytest.skip("this OpenSSL has no NULL suites")
    seen = judge(turns)
    assert seen.state == "broken"
    assert "does not encrypt" in seen.reason


def test_unfinished_handshake_is_neither_covered_nor_broken(pem: Path) -> None:
    turns = tls(pem, finish=False)
    assert judge(turns).state == "handshake"
    assert judge(turns[:1]).state == "handshake"


def test_plaintext_after_the_handshake_is_found(pem: Path) -> None:
    turns = tls(pem)
    for way in ("up", "down"):
        assert judge([*turns, (way, HTTP)]).state == "broken"


def test_plaintext_in_the_clothes_of_application_data_is_found(pem: Path) -> None:
    handshake = tls(pem, version=ssl.TLSVersion.TLSv1_2, data=b"x")
    body = HTTP * 8
    record = b"\x17\x03\x03" + len(body).to_bytes(2, "big") + body
    seen = judge([*handshake, ("up", record)])
    assert seen.state == "broken"
    assert "readable" in seen.reason


def test_a_first_byte_of_0x16_does_not_make_tls() -> None:
    for start in (b"\x16", b"\x16\x03\x01", b"\x16\x03\x01\x00\x40"):
        assert judge([("up", start + HTTP * 3), ("down", b"HTTP/1.1 200 OK\r\n\r\n")]).state == "none"


def test_a_real_client_hello_answered_in_plaintext_is_broken(pem: Path) -> None:
    hello = tls(pem)[0]
    assert judge([hello, ("down", b"HTTP/1.1 400 Bad Request\r\n\r\n")]).state == "broken"


def test_data_hidden_in_handshake_records_is_found(pem: Path) -> None:
    turns = tls(pem, version=ssl.TLSVersion.TLSv1_2)
    hidden = b"\x16\x03\x03\x20\x00" + HTTP.ljust(0x2000, b".")
    assert judge([*turns, ("up", hidden * 4)]).state == "broken"


def test_server_choice_must_be_among_what_the_client_offered(pem: Path) -> None:
    hello = tls(pem)[0]
    answer = next(turn for turn in tls(pem, version=ssl.TLSVersion.TLSv1_2) if turn[0] == "down")
    assert judge([hello, answer]).state == "broken"


@pytest.mark.parametrize("seed", range(40))
def test_no_mutation_crashes_and_none_turns_garbage_into_tls(pem: Path, seed: int) -> None:
    """Random damage to record headers, lengths and hellos of a real conversation: never an exception, and what was
    damaged in a header is never called established."""
    rng = random.Random(seed)
    turns = tls(pem)
    damaged = []
    for way, data in turns:
        spoiled = bytearray(data)
        for _ in range(rng.randint(1, 6)):
            spoiled[rng.randrange(len(spoiled))] = rng.randrange(256)
        del spoiled[rng.randrange(len(spoiled)) :]
        damaged.append((way, bytes(spoiled)))
    judge(damaged, rng.choice([1, 3, 1400]))
    header = bytearray(turns[-1][1])
    header[rng.randrange(3)] ^= 0xFF
    assert judge([*turns[:-1], (turns[-1][0], bytes(header))]).state == "broken"


def test_random_bytes_are_never_tls() -> None:
    rng = random.Random(7)
    for _ in range(300):
        turns = [(way, rng.randbytes(rng.randint(1, 4000))) for way in ("up", "down", "up")]
        assert judge(turns).state == "none"
