"""TLS as a bystander sees it: is every byte of a connection inside a well-formed, really negotiated TLS session?

A first byte of 0x16 proves nothing. A connection counts as established TLS only when all of this was seen:

- the client's stream begins with a record that holds a complete, parseable ClientHello;
- the server's stream begins with a record that holds a ServerHello that answers it: a cipher suite the client
  offered, a version the client offered, the session id echoed where TLS 1.3 says so, and a suite that encrypts;
- both sides then sent encrypted application data records (in TLS 1.3 the rest of the handshake is such records);
- from first to last captured byte, both directions are an unbroken chain of records with valid types, versions and
  lengths, in an order the protocol allows; one stray byte breaks it for good;
- what claims to be ciphertext looks like it: about half of its bytes are above 0x7F.

Everything here is incremental and does no I/O: `Scanner.feed` takes the bytes of one direction in order and keeps a
bounded amount of state. Sources: RFC 8446 sections 4 and 5, RFC 5246 sections 6 and 7, RFC 8701 (GREASE).
"""

from __future__ import annotations

from typing import NamedTuple

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA = 20, 21, 22, 23
CLIENT_HELLO, SERVER_HELLO, CERTIFICATE = 1, 2, 11
TLS12, TLS13 = 0x0303, 0x0304
VERSIONS = {0x0300: "SSL 3.0", 0x0301: "TLS 1.0", 0x0302: "TLS 1.1", TLS12: "TLS 1.2", TLS13: "TLS 1.3"}

_MAX_RECORD = 2**14 + 2048  # RFC 5246 6.2.3; TLS 1.3 allows less, never more
_MAX_HANDSHAKE = 1 << 17  # certificates of both sides and more; a longer cleartext handshake is not one
_MAX_LATE = 1 << 14  # after ChangeCipherSpec a handshake record holds a Finished, or a second hello; not kilobytes
_MESSAGES = frozenset({0, 1, 2, 4, 5, 8, 11, 12, 13, 14, 15, 16, 20, 21, 22, 23, 24, 25})  # IANA TLS HandshakeType
_SAMPLE = 4096
_SAMPLE_ENOUGH = 256
_HIGH = bytes(range(128, 256))
_HIGH_SHARE = 0.30  # of 256 random bytes half are high; below 0.30 lies 6 standard deviations away
_RETRY_RANDOM = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")

# Suites that authenticate without encrypting, and anonymous ones (IANA TLS cipher suites registry).
_NULL_SUITES = frozenset(
    {0x0000, 0x0001, 0x0002, 0x003B, 0x002C, 0x002D, 0x002E, 0x00B0, 0x00B1, 0x00B4, 0x00B5, 0x00B8, 0x00B9}
    | {0xC001, 0xC006, 0xC00B, 0xC010, 0xC015, 0xC039, 0xC03A, 0xC03B, 0xC0B4, 0xC0B5}
)
_ANONYMOUS_SUITES = frozenset(
    {0x0017, 0x0018, 0x0019, 0x001A, 0x001B, 0x0034, 0x003A, 0x0046, 0x0089, 0x006C, 0x006D, 0x009B, 0x00A6, 0x00A7}
    | {0x00BF, 0x00C5, 0xC015, 0xC016, 0xC017, 0xC018, 0xC019}
)


class Hello(NamedTuple):
    """What both hellos say. `versions` and `suites` hold one entry in a ServerHello: what was chosen."""

    versions: tuple[int, ...]
    suites: tuple[int, ...]
    session: bytes
    sni: str = ""
    alpn: tuple[str, ...] = ()
    retry: bool = False


class Assessment(NamedTuple):
    """`state`: none (not TLS) | handshake (not finished, no application data) | established | broken"""

    state: str
    reason: str = ""
    version: str = ""
    sni: str = ""
    alpn: tuple[str, ...] = ()
    client_certificate: bool = False
    """Whether the client may have authenticated: always in TLS 1.3, where that is encrypted; in 1.2 when it was seen
    to, or resumed a session."""


class Scanner:
    """One direction of one connection, record by record."""

    __slots__ = (
        "_body",
        "_handshake",
        "_header",
        "_late",
        "_type",
        "broken",
        "changed",
        "data_records",
        "first",
        "hello",
        "low",
        "messages",
        "records",
        "sampled",
    )

    def __init__(self) -> None:
        self._header = b""
        self._body = 0
        self._type = 0
        self._handshake = bytearray()
        self._late = 0
        self.first = 0
        """Type of the message that opened the handshake."""
        self.hello: Hello | None = None
        self.messages: set[int] = set()
        self.records = 0
        self.data_records = 0
        self.changed = False
        """ChangeCipherSpec seen: in TLS 1.2 what follows is encrypted."""
        self.sampled = 0
        self.low = 0
        self.broken = ""

    def feed(self, data: bytes) -> None:
        at, end = 0, len(data)
        while at < end and not self.broken:
            if self._body:
                take = min(self._body, end - at)
                self._content(data[at : at + take])
                self._body -= take
                at += take
                continue
            take = min(5 - len(self._header), end - at)
            self._header += data[at : at + take]
            at += take
            if len(self._header) == 5:
                self._begin(self._header)
                self._header = b""

    def _begin(self, header: bytes) -> None:
        kind, major, minor, length = header[0], header[1], header[2], int.from_bytes(header[3:5], "big")
        if kind not in (CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA):
            self.broken = f"record {self.records + 1} has type {kind}, which TLS does not have"
        elif major != 3 or minor > 3:
            self.broken = f"record {self.records + 1} has version {major}.{minor}, which TLS does not have"
        elif length > _MAX_RECORD or (length == 0 and kind != APPLICATION_DATA):
            self.broken = f"record {self.records + 1} claims {length} bytes"
        elif not self.records and kind not in (HANDSHAKE, ALERT):
            self.broken = f"begins with a record of type {kind}, not with a handshake"
        elif kind == APPLICATION_DATA and not self.messages and self.records:
            self.broken = "application data without a hello"
        if self.broken:
            return
        if kind == APPLICATION_DATA:
            self.data_records += 1
        elif kind == CHANGE_CIPHER_SPEC:
            self.changed = True
        self.records += 1
        self._type, self._body = kind, length

    def _content(self, data: bytes) -> None:
        if self._type == APPLICATION_DATA:
            if self.sampled < _SAMPLE:
                part = data[: _SAMPLE - self.sampled]
                self.sampled += len(part)
                self.low += len(part.translate(None, _HIGH))
        elif self._type == HANDSHAKE and (self.changed or self.data_records) and not self._retried:
            self._late += len(data)
            if self._late > _MAX_LATE:
                self.broken = "handshake records go on after the handshake"
        elif self._type == HANDSHAKE:
            self._handshake += data
            if len(self._handshake) > _MAX_HANDSHAKE:
                self.broken = "the cleartext handshake never ends"
            self._messages()

    @property
    def _retried(self) -> bool:
        """A HelloRetryRequest was sent: the ServerHello proper follows, after a ChangeCipherSpec that means nothing."""
        return self.hello is not None and self.hello.retry

    def _messages(self) -> None:
        buffer = self._handshake
        while len(buffer) >= 4 and not self.broken:
            size = 4 + int.from_bytes(buffer[1:4], "big")
            if size > _MAX_HANDSHAKE or buffer[0] not in _MESSAGES:
                self.broken = f"a handshake message of type {buffer[0]} claims {size} bytes"
                return
            if len(buffer) < size:
                return
            message, body = buffer[0], bytes(buffer[4:size])
            del buffer[:size]
            if not self.messages:
                self.first = message
                if message not in (CLIENT_HELLO, SERVER_HELLO):
                    self.broken = f"begins with handshake message {message}, not with a hello"
                    return
            # HelloRetryRequest is followed by a second hello of each side; the later one is what was agreed on.
            if message in (CLIENT_HELLO, SERVER_HELLO):
                hello = _client_hello(body) if message == CLIENT_HELLO else _server_hello(body)
                if hello is None:
                    self.broken = "the hello does not parse"
                    return
                self.hello = hello
            if message == CERTIFICATE and len(body) <= 3:
                continue  # an empty list: the client was asked and had none
            self.messages.add(message)

    @property
    def readable(self) -> bool:
        """What is labelled ciphertext is not: too few of its bytes are high."""
        return self.sampled >= _SAMPLE_ENOUGH and (self.sampled - self.low) < _HIGH_SHARE * self.sampled


def assess(client: Scanner, server: Scanner) -> Assessment:
    """Both directions together. See the module's docstring for what `established` takes."""
    if client.broken or server.broken:
        if client.first != CLIENT_HELLO and server.first != SERVER_HELLO:
            return Assessment("none")
        side = "client" if client.broken else "server"
        return _with("broken", f"{side}: {client.broken or server.broken}", client.hello, server.hello)
    if client.hello is None:
        return Assessment("none")
    if client.first != CLIENT_HELLO:
        return Assessment("broken", "the client sent a ServerHello")
    hello, answer = client.hello, server.hello
    if answer is None or answer.retry:
        if client.data_records:
            return _with("broken", "application data before the server answered", hello, None)
        return _with("handshake", "the server never answered with a ServerHello", hello, None)
    if server.first != SERVER_HELLO:
        return _with("broken", "the server sent a ClientHello", hello, None)
    version, suite = answer.versions[0], answer.suites[0]
    problem = ""
    if version not in hello.versions:
        problem = f"the server chose {VERSIONS.get(version, hex(version))}, which the client did not offer"
    elif suite not in hello.suites:
        problem = f"the server chose cipher suite {suite:#06x}, which the client did not offer"
    elif version < TLS12:
        problem = f"{VERSIONS.get(version, hex(version))} is not safe"
    elif suite in _NULL_SUITES or suite in _ANONYMOUS_SUITES:
        problem = f"cipher suite {suite:#06x} does not encrypt or does not authenticate"
    elif version == TLS13 and answer.session != hello.session:
        problem = "the ServerHello does not echo the session id"
    elif client.readable or server.readable:
        problem = "what is labelled ciphertext is readable"
    elif version == TLS12 and (
        (client.data_records and not client.changed) or (server.data_records and not server.changed)
    ):
        problem = "application data before ChangeCipherSpec"
    if problem:
        return _with("broken", problem, hello, answer)
    if version == TLS13:
        done = client.data_records and server.data_records
    else:
        done = client.changed and server.changed and (client.data_records or server.data_records)
    if not done:
        if client.data_records:
            return _with("broken", "application data from the client alone", hello, answer)
        return _with("handshake", "the handshake was not finished", hello, answer)
    resumed = bool(hello.session) and answer.session == hello.session
    proved = version == TLS13 or resumed or CERTIFICATE in client.messages
    return _with("established", "", hello, answer)._replace(client_certificate=proved)


def _with(state: str, reason: str, hello: Hello | None, answer: Hello | None) -> Assessment:
    return Assessment(
        state,
        reason,
        VERSIONS.get(answer.versions[0], hex(answer.versions[0])) if answer else "",
        hello.sni if hello else "",
        hello.alpn if hello else (),
    )


class _Short(Exception):
    """The structure claims more bytes than there are."""


class _Reader:
    """A cursor that refuses to read past its end."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise _Short
        part = self.data[self.at : self.at + count]
        self.at += count
        return part

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """Bytes preceded by their count, itself `size` bytes long."""
        return self.take(self.number(size))

    @property
    def more(self) -> bool:
        return self.at < len(self.data)


def _client_hello(body: bytes) -> Hello | None:
    try:
        reader = _Reader(body)
        legacy = reader.number(2)
        reader.take(32)
        session = reader.vector(1)
        suites = _numbers(reader.vector(2))
        compression = reader.vector(1)
        extensions = _extensions(reader)
        if len(session) > 32 or not suites or not compression or legacy >> 8 != 3:
            return None
        versions: tuple[int, ...] = (legacy,)
        if 43 in extensions:
            versions = _numbers(_Reader(extensions[43]).vector(1))
        return Hello(versions, suites, session, _sni(extensions.get(0, b"")), _alpn(extensions.get(16, b"")))
    except _Short:
        return None


def _server_hello(body: bytes) -> Hello | None:
    try:
        reader = _Reader(body)
        legacy = reader.number(2)
        random = reader.take(32)
        session = reader.vector(1)
        suite = reader.number(2)
        reader.take(1)
        extensions = _extensions(reader)
        if len(session) > 32 or legacy >> 8 != 3:
            return None
        version = int.from_bytes(extensions[43], "big") if len(extensions.get(43, b"")) == 2 else legacy
        alpn = _alpn(extensions.get(16, b""))
        return Hello((version,), (suite,), session, alpn=alpn, retry=random == _RETRY_RANDOM)
    except _Short:
        return None


def _extensions(reader: _Reader) -> dict[int, bytes]:
    if not reader.more:
        return {}
    inner = _Reader(reader.vector(2))
    if reader.more:
        raise _Short
    found: dict[int, bytes] = {}
    while inner.more:
        kind = inner.number(2)
        found[kind] = inner.vector(2)
    return found


def _numbers(data: bytes) -> tuple[int, ...]:
    if len(data) % 2:
        raise _Short
    return tuple(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))


def _sni(data: bytes) -> str:
    if not data:
        return ""
    entries = _Reader(_Reader(data).vector(2))
    while entries.more:
        kind, name = entries.number(1), entries.vector(2)
        if kind == 0:
            return name.decode("ascii", "backslashreplace")
    return ""


def _alpn(data: bytes) -> tuple[str, ...]:
    if not data:
        return ()
    entries = _Reader(_Reader(data).vector(2))
    found = []
    while entries.more:
        found.append(entries.vector(1).decode("ascii", "backslashreplace"))
    return tuple(found)
