"""No mesh at all: pods as they are. What a mesh is compared with, and what shows that a check can fail."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

from harness.meshes.api import CertificateAuthority, MeshError, ProxyStatus, Receipt
from harness.substrate.api import World
from manifests import Document

EMPTY = Receipt(digest="none", proxies=0, acked=0)


class NoMesh:
    name = "none"
    alpn: frozenset[str] = frozenset()
    features: frozenset[str] = frozenset()
    ca = CertificateAuthority(certificate="", key="")
    control_namespace = ""

    def install(self, world: World) -> None:
        """Nothing to install."""

    def attach(self, world: World) -> None:
        """Nothing to find."""

    def uninstall(self) -> None:
        """Nothing to remove."""

    def apply(self, documents: Iterable[Document], deadline: float = 10.0) -> Receipt:
        return self._refuse(documents)

    def delete(self, documents: Iterable[Document], deadline: float = 10.0) -> Receipt:
        return self._refuse(documents)

    def validate(self, documents: Iterable[Document]) -> None:
        self._refuse(documents)

    def digest(self) -> str:
        return EMPTY.digest

    def proxies(self) -> list[ProxyStatus]:
        return []

    def settled(self, deadline: float = 10.0) -> Receipt:
        return EMPTY

    def rotate_certificates(self, deadline: float = 10.0) -> None:
        raise MeshError("there is no mesh here (--mesh none), so there are no certificates to rotate")

    def mutant(self, name: str) -> AbstractContextManager[None]:
        raise MeshError(f"there is no mesh here (--mesh none), so mutant {name!r} has nothing to change")

    def metrics(self, namespace: str, pod: str) -> str:
        raise MeshError(f"pod {namespace}/{pod} has no proxy: there is no mesh here (--mesh none)")

    def access_log(self, namespace: str, pod: str) -> Iterator[dict[str, object]]:
        raise MeshError(f"pod {namespace}/{pod} has no proxy: there is no mesh here (--mesh none)")

    def metadata(self) -> dict[str, str]:
        return {
            "name": "none",
            "version": "",
            "organisation": "",
            "url": "",
            "data_plane": "none",
            "data_plane_version": "",
        }

    def _refuse(self, documents: Iterable[Document]) -> Receipt:
        """Nothing to change is a change; anything else has nobody who would carry it out."""
        asked = [f"{document.kind} {document.namespace}/{document.name}" for document in documents]
        if asked:
            raise MeshError(f"there is no mesh here (--mesh none) to take {', '.join(asked)}")
        return EMPTY
