"""A pod's volumes as folders of the host, to be bind-mounted into its containers.

They live in the pod's own folder below the world's state and are removed with it. Files of a ConfigMap or a token
are replaced by rename, so a program that reads one while it changes gets the old or the new, never a part.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from harness.substrate.local.rootfs import Bind
from harness.substrate.local.tokens import REFRESH_AT, Issuer, Subject
from manifests.kube import ConfigMap, ConfigMapVolume, Container, HostPathVolume, Pod, ServiceAccountTokenProjection


class _Token(msgspec.Struct, kw_only=True):
    file: Path
    projection: ServiceAccountTokenProjection
    due: float = 0.0
    """Monotonic time at which to write the next one."""


class Volumes:
    def __init__(self, folder: Path, pod: Pod, issuer: Issuer) -> None:
        self._folder = folder
        self._pod = pod
        self._issuer = issuer
        self._subject = Subject(
            namespace=pod.metadata.namespace,
            service_account=pod.spec.service_account_name,
            pod=pod.metadata.name,
            pod_uid=pod.metadata.uid,
        )
        self._sources: dict[str, Path] = {}
        self._maps: list[tuple[Path, ConfigMapVolume]] = []
        self._tokens: list[_Token] = []

    def make(self, config_maps: Mapping[str, ConfigMap]) -> None:
        """Create every volume. Raises `OSError` for a host path that is not there, `KeyError` for a ConfigMap."""
        for volume in self._pod.spec.volumes:
            if volume.host_path is not None:
                self._sources[volume.name] = _host_path(volume.host_path)
                continue
            path = self._folder / "volumes" / volume.name
            path.mkdir(parents=True)
            path.chmod(0o777 if volume.empty_dir is not None else 0o755)
            self._sources[volume.name] = path
            if volume.config_map is not None:
                self._maps.append((path, volume.config_map))
            for source in volume.projected.sources if volume.projected is not None else ():
                if source.config_map is not None:
                    self._maps.append((path, source.config_map))
                if source.service_account_token is not None:
                    token = source.service_account_token
                    self._tokens.append(_Token(file=path / token.path, projection=token))
        self.write_config(config_maps)
        self.refresh_tokens()

    def write_config(self, config_maps: Mapping[str, ConfigMap]) -> None:
        """Bring the files of every ConfigMap up to date."""
        for path, source in self._maps:
            if source.name not in config_maps:
                if source.optional:
                    continue
                raise KeyError(f"ConfigMap {source.name}")
            data = config_maps[source.name].data
            wanted = {item.path: data[item.key] for item in source.items} if source.items else data
            for name, text in wanted.items():
                _replace(path / name, text)
            if not source.items and len(self._maps) == 1:
                for present in path.iterdir():
                    if present.is_file() and present.name not in wanted:
                        present.unlink()

    def refresh_tokens(self) -> None:
        """Write each token that is due: at first, and when four fifths of its life are over."""
        for token in self._tokens:
            if time.monotonic() < token.due:
                continue
            seconds = token.projection.expiration_seconds
            _replace(token.file, self._issuer.token(self._subject, token.projection.audience, seconds))
            token.due = time.monotonic() + seconds * REFRESH_AT

    def binds(self, container: Container) -> list[Bind]:
        return [
            Bind(source=str(self._sources[mount.name]), target=mount.mount_path, read_only=mount.read_only)
            for mount in container.volume_mounts
        ]


def _replace(path: Path, text: str) -> None:
    content = text.encode()
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(content)
    temporary.chmod(0o644)
    temporary.replace(path)


def _host_path(volume: HostPathVolume) -> Path:
    path = Path(volume.path)
    if volume.type == "DirectoryOrCreate":
        path.mkdir(parents=True, exist_ok=True)
    elif volume.type == "FileOrCreate":
        path.touch()
    mode = os.stat(path).st_mode  # noqa: PTH116 - its error names the path
    expected = {"Directory": stat.S_ISDIR, "File": stat.S_ISREG, "Socket": stat.S_ISSOCK}.get(volume.type)
    if expected is not None and not expected(mode):
        raise OSError(f"hostPath {path} is not a {volume.type}")
    return path
