"""Who gets in and what is on the wire when real Envoys run compiled configuration."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import time
from pathlib import Path

import jwt
import pytest
from compile_envoy import Authority
from conftest import SERVERS, STRICT, Mesh, ask, entry
from cryptography.hazmat.primitives.asymmetric import ec

pytestmark = pytest.mark.privileged

V1 = SERVERS["echo-v1"][0]
REQUEST = b"GET /raw HTTP/1.1\r\nhost: echo\r\nconnection: close\r\n\r\n"


def peer_authentication(mode: str, ports: str = "") -> str:
    return f"""
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: echo, namespace: bookinfo}}
spec:
  selector: {{matchLabels: {{app: echo}}}}
  mtls: {{mode: {mode}}}
  {ports}
"""


def uncaptured(mesh: Mesh, port: int, send: bytes, *, tls: ssl.SSLContext | None = None) -> bytes:
    """What a client outside the mesh gets: its connection goes straight to the pod. Raises `OSError` when refused."""
    mesh.client.run("iptables", "-t", "nat", "-I", "OUTPUT", "-d", V1, "-j", "RETURN")
    try:
        return mesh.client.call(_exchange, V1, port, send, tls)
    finally:
        mesh.client.run("iptables", "-t", "nat", "-D", "OUTPUT", "-d", V1, "-j", "RETURN")


def _exchange(host: str, port: int, send: bytes, tls: ssl.SSLContext | None) -> bytes:
    with socket.create_connection((host, port), timeout=10) as plain:
        connection = tls.wrap_socket(plain, server_hostname="x") if tls else plain
        if send:
            connection.sendall(send)
        received = b""
        while chunk := connection.recv(4096):
            received += chunk
            if received.endswith(b"\n") and not send:
                break
        return received


def _conversation(host: str, port: int) -> tuple[bytes, bytes]:
    """With a server that speaks first."""
    with socket.create_connection((host, port), timeout=10) as connection:
        first = connection.recv(100)
        connection.sendall(b"ping")
        return first, connection.recv(100)


def client_context(
    authority: Authority, folder: Path, uri: str = "spiffe://cluster.local/ns/x/sa/y", alpn: str = ""
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if uri:
        certificate, key = authority.issue(uri)
        (folder / "client.pem").write_text(certificate + key)
        context.load_cert_chain(folder / "client.pem")
    if alpn:
        context.set_alpn_protocols([alpn])
    return context


@pytest.mark.parametrize("port", [8080, 9000, 9001, 4321])
def test_strict_resets_plaintext_on_every_port(mesh: Mesh, port: int) -> None:
    with pytest.raises(ConnectionResetError):
        uncaptured(mesh, port, REQUEST)


@pytest.mark.parametrize("alpn", ["", "istio-http/1.1", "h2"])
def test_strict_wants_a_certificate_of_the_mesh(mesh: Mesh, authority: Authority, tmp_path: Path, alpn: str) -> None:
    trusted = client_context(authority, tmp_path, alpn="istio-http/1.1")
    assert uncaptured(mesh, 8080, REQUEST, tls=trusted).startswith(b"HTTP/1.1 200")
    for name, context in {
        "no certificate": client_context(authority, tmp_path, uri="", alpn=alpn),
        "another root": client_context(Authority("other"), tmp_path, alpn=alpn),
        "another trust domain": client_context(authority, tmp_path, uri="spiffe://evil.local/ns/x/sa/y", alpn=alpn),
    }.items():
        with pytest.raises(OSError, match=r"(?i)alert|reset|eof"):
            print(name, uncaptured(mesh, 8080, REQUEST, tls=context))


def test_permissive_takes_both_and_disable_is_plain(mesh: Mesh, authority: Authority, tmp_path: Path) -> None:
    mesh.apply(peer_authentication("PERMISSIVE"))
    answer = uncaptured(mesh, 8080, REQUEST)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"x-forwarded-client-cert" not in answer
    assert "x-forwarded-client-cert" in mesh.get("/").received
    forged = REQUEST.replace(b"connection", b"x-forwarded-client-cert: URI=spiffe://evil\r\nconnection")
    assert b"spiffe" not in uncaptured(mesh, 8080, forged)
    assert uncaptured(mesh, 9001, b"ping").startswith(b"hello from the server\n")

    mesh.apply(peer_authentication("DISABLE"))
    assert "x-forwarded-client-cert" not in mesh.get("/").received
    assert uncaptured(mesh, 9000, b"").startswith(b"hello from the server\n")


def test_precedence_of_modes(mesh: Mesh) -> None:
    namespace = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: bookinfo}
spec: {mtls: {mode: PERMISSIVE}}
"""
    mesh.apply(namespace)
    assert uncaptured(mesh, 8080, REQUEST).startswith(b"HTTP/1.1 200")
    mesh.apply(namespace + "---" + peer_authentication("STRICT", "portLevelMtls: {9000: {mode: DISABLE}}"))
    with pytest.raises(ConnectionResetError):
        uncaptured(mesh, 8080, REQUEST)
    assert uncaptured(mesh, 9000, b"").startswith(b"hello from the server\n")


def test_a_server_of_another_identity_is_refused(mesh: Mesh) -> None:
    original = mesh.world
    mesh.world = type(original)()
    mesh.world.__dict__.update(original.__dict__)
    workloads = dict(original._workloads)
    try:
        for name in SERVERS:
            address, version = SERVERS[name]
            mesh.world.pod(name, address, {"app": "echo", "version": version}, service_account="somebody-else")
        mesh.envoys["client"].apply(mesh._compile("client", "client", STRICT))
        assert mesh.get("/somebody-else").status == 503
        reason = entry(mesh, "client", lambda said: said.get("path") == "/somebody-else")[
            "upstream_transport_failure_reason"
        ]
        assert "spiffe://cluster.local/ns/bookinfo/sa/bookinfo-echo" in reason, "the log says who was there instead"
    finally:
        original._workloads.clear()
        original._workloads.update(workloads)
        mesh.world = original


def test_tcp_and_undeclared_ports_are_mutual_tls(mesh: Mesh) -> None:
    """STRICT refuses plaintext, so what gets through was mutual TLS; the server speaks first on both TCP ports."""
    vip = mesh.service_ip()
    for port in (9000, 7001):
        assert mesh.client.call(_conversation, vip, port) == (b"hello from the server\n", b"you said: ping")
    answer = mesh.get("/detected", port=7000)
    assert answer.seen["path"] == "/detected"
    assert "URI=spiffe" in answer.received["x-forwarded-client-cert"], "HTTP on an undeclared port is known as HTTP"


FRESH_CONNECTIONS = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo, namespace: bookinfo}
spec: {host: echo, trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}}
"""

HELLO = """
import socket, sys
server = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print("ready", flush=True)
while True:
    connection, _ = server.accept()
    open(sys.argv[2], "ab").write(connection.recv(4096) + b"=====")
    connection.close()
"""


@pytest.mark.parametrize(
    ("port", "offer", "server_name"),
    [
        (80, [b"istio-http/1.1", b"http/1.1"], b"outbound_.80_._.echo.bookinfo.svc.cluster.local"),
        (9000, [b"istio"], b"outbound_.9000_._.echo.bookinfo.svc.cluster.local"),
        (7000, [b"istio-http/1.1", b"http/1.1"], b"outbound_.7000_._.echo.bookinfo.svc.cluster.local"),
    ],
)
def test_what_the_wire_shows(mesh: Mesh, tmp_path: Path, port: int, offer: list[bytes], server_name: bytes) -> None:
    tmp_path.chmod(0o777)
    out = tmp_path / "hello"
    mesh.apply(FRESH_CONNECTIONS)
    server = mesh.server
    server.run("iptables", "-t", "nat", "-I", "PREROUTING", "-p", "tcp", "-j", "REDIRECT", "--to-ports", "6666")
    process = server.python(HELLO, "6666", str(out))
    try:
        if port == 9000:
            with contextlib.suppress(OSError):
                mesh.client.call(_conversation, mesh.service_ip(), port)
        else:
            mesh.get("/", port=port)
        hello = out.read_bytes().split(b"=====")[0]
    finally:
        process.kill()
        server.run("iptables", "-t", "nat", "-D", "PREROUTING", "-p", "tcp", "-j", "REDIRECT", "--to-ports", "6666")
    protocols = b"".join(bytes([len(value)]) + value for value in offer)
    extension = b"\x00\x10" + (len(protocols) + 2).to_bytes(2) + len(protocols).to_bytes(2) + protocols
    assert extension in hello
    assert server_name in hello


# === authorization ===


def policy(spec: str, name: str = "test", namespace: str = "bookinfo") -> str:
    return f"""
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: {namespace}}}
spec: {spec}
"""


CLIENT_PRINCIPAL = "cluster.local/ns/bookinfo/sa/bookinfo-client"


@pytest.mark.parametrize(
    ("spec", "path", "status"),
    [
        ("{}", "/", 403),
        ("{rules: [{}]}", "/", 200),
        ("{action: DENY}", "/", 200),
        ("{action: DENY, rules: [{}]}", "/", 403),
        (f"{{rules: [{{from: [{{source: {{principals: [{CLIENT_PRINCIPAL}]}}}}]}}]}}", "/", 200),
        ("{rules: [{from: [{source: {principals: [cluster.local/ns/bookinfo/sa/other]}}]}]}", "/", 403),
        ("{rules: [{from: [{source: {principals: ['*']}}]}]}", "/", 200),
        ("{rules: [{from: [{source: {principals: ['*/sa/bookinfo-client']}}]}]}", "/", 200),
        ("{rules: [{from: [{source: {namespaces: [bookinfo]}}]}]}", "/", 200),
        ("{rules: [{from: [{source: {namespaces: [book]}}]}]}", "/", 403),
        ("{rules: [{from: [{source: {namespaces: ['book*']}}]}]}", "/", 200),
        ("{rules: [{from: [{source: {notNamespaces: [bookinfo]}}]}]}", "/", 403),
        ("{rules: [{from: [{source: {serviceAccounts: [bookinfo-client]}}]}]}", "/", 200),
        ("{rules: [{from: [{source: {serviceAccounts: [other/bookinfo-client]}}]}]}", "/", 403),
        ("{rules: [{from: [{source: {ipBlocks: [10.244.0.0/16]}}]}]}", "/", 200),
        ("{rules: [{from: [{source: {ipBlocks: [10.1.0.0/16]}}]}]}", "/", 403),
        ("{rules: [{to: [{operation: {methods: [GET], paths: ['/info*']}}]}]}", "/info/x?q=1", 200),
        ("{rules: [{to: [{operation: {methods: [GET], paths: ['/info*']}}]}]}", "/other", 403),
        ("{rules: [{to: [{operation: {methods: [POST]}}]}]}", "/", 403),
        ("{rules: [{to: [{operation: {paths: ['*/end']}}]}]}", "/the/end", 200),
        ("{rules: [{to: [{operation: {paths: ['/a/{*}/c']}}]}]}", "/a/b/c", 200),
        ("{rules: [{to: [{operation: {paths: ['/a/{*}/c']}}]}]}", "/a/b/b/c", 403),
        ("{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}", "/x/../admin?a", 403),
        ("{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}", "/%61dmin", 403),
        ("{rules: [{to: [{operation: {notPaths: [/admin]}}]}]}", "/admin", 403),
        ("{rules: [{to: [{operation: {hosts: [ECHO]}}]}]}", "/", 200),
        ("{rules: [{to: [{operation: {hosts: [echo.example]}}]}]}", "/", 403),
        ("{rules: [{to: [{operation: {ports: ['8080']}}]}]}", "/", 200),
        ("{rules: [{to: [{operation: {notPorts: ['8080']}}]}]}", "/", 403),
        ("{rules: [{when: [{key: 'request.headers[x-team]', values: [blue]}]}]}", "/", 403),
        ("{rules: [{when: [{key: 'request.headers[x-team]', notValues: [blue]}]}]}", "/", 200),
        ("{rules: [{when: [{key: connection.sni, values: ['*.bookinfo.svc.cluster.local']}]}]}", "/", 200),
        ("{rules: [{when: [{key: source.principal, values: ['cluster.local/ns/bookinfo/*']}]}]}", "/", 200),
        ("{selector: {matchLabels: {app: other}}}", "/", 200),
    ],
)
def test_authorization(mesh: Mesh, spec: str, path: str, status: int) -> None:
    mesh.apply(policy(spec))
    assert mesh.get(path).status == status


def test_deny_beats_allow_and_bites_an_open_connection(mesh: Mesh) -> None:
    connection = mesh.connection()
    try:
        assert ask(connection, "GET", "/", {"host": "echo"}).status == 200
        mesh.apply(policy("{rules: [{}]}") + policy("{action: DENY, rules: [{}]}", "deny", "istio-system"))
        answer = ask(connection, "GET", "/", {"host": "echo"})
        assert (answer.status, answer.body) == (403, "RBAC: access denied")
        mesh.apply()
        assert ask(connection, "GET", "/", {"host": "echo"}).status == 200
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("spec", "open_"),
    [
        ("{rules: [{to: [{operation: {methods: [GET]}}]}]}", False),
        ("{rules: [{to: [{operation: {ports: ['9000']}}]}]}", True),
        ("{action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}", False),
        ("{action: DENY, rules: [{to: [{operation: {methods: [GET], ports: ['1']}}]}]}", True),
        ("{rules: [{from: [{source: {namespaces: [bookinfo]}}]}]}", True),
    ],
)
def test_authorization_of_tcp(mesh: Mesh, spec: str, open_: bool) -> None:
    mesh.apply(policy(spec))
    if open_:
        assert mesh.client.call(_conversation, mesh.service_ip(), 9000)[1] == b"you said: ping"
    else:
        # Envoy asks for the verdict with the client's first bytes: what a server says before them is out by then.
        with contextlib.suppress(ConnectionError):
            assert mesh.client.call(_conversation, mesh.service_ip(), 9000)[1] == b""


ISSUER = "https://issuer.example"
KEY = ec.generate_private_key(ec.SECP256R1())


def jwks() -> str:
    key = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key()))
    return json.dumps({"keys": [{**key, "kid": "k1", "alg": "ES256"}]})


def token(**claims: object) -> str:
    said = {"iss": ISSUER, "sub": "alice", "exp": int(time.time()) + 600, **claims}
    return jwt.encode(said, KEY, "ES256", headers={"kid": "k1"})


def bearer(value: str) -> dict[str, str]:
    return {"authorization": f"Bearer {value}"}


def request_authentication() -> str:
    return f"""
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: jwt, namespace: bookinfo}}
spec:
  selector: {{matchLabels: {{app: echo}}}}
  jwtRules: [{{issuer: "{ISSUER}", jwks: '{jwks()}'}}]
"""


def test_tokens(mesh: Mesh) -> None:
    connection = mesh.connection()

    def status(headers: dict[str, str]) -> int:
        return ask(connection, "GET", "/", {"host": "echo", **headers}).status

    try:
        assert status(bearer("nonsense")) == 200
        mesh.apply(request_authentication())
        assert status({}) == 200
        answer = ask(connection, "GET", "/", {"host": "echo", **bearer(token())})
        assert answer.status == 200
        assert "authorization" not in answer.received
        wrong = token()
        wrong = wrong[:-6] + ("AAAAAA" if not wrong.endswith("AAAAAA") else "BBBBBB")
        for bad in (wrong, token(exp=1), token(iss="https://other.example"), "nonsense"):
            assert status(bearer(bad)) == 401

        mesh.apply(
            request_authentication()
            + policy(f"{{rules: [{{from: [{{source: {{requestPrincipals: ['{ISSUER}/alice']}}}}]}}]}}")
        )
        assert [status({}), status(bearer(token())), status(bearer(token(sub="bob")))] == [403, 200, 403]
        mesh.apply(
            request_authentication()
            + policy("{rules: [{when: [{key: 'request.auth.claims[groups]', values: [admin]}]}]}")
        )
        assert [status(bearer(token(groups=["x", "admin"]))), status(bearer(token(groups="admin")))] == [200, 200]
        assert status(bearer(token(groups=["x"]))) == 403
    finally:
        connection.close()
