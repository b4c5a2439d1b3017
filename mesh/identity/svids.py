"""Workload certificates in use: issued when a pod first connects, replaced at half life, served as SDS resources.

A pod keeps its certificate over a reconnect; another pod of the same service account has a key of its own. Replacement
is spread by jitter, so that a mesh that started at once does not rotate at once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import msgspec
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2

from mesh.identity.ca import CertificateAuthority, Issued
from mesh.identity.tokens import Identity
from mesh.resource import SECRET, Resource, resource

WORKLOAD_SECRET = "default"
ROOT_SECRET = "ROOTCA"
"""SDS names, as Istio's."""
HALF_LIFE = 0.5
JITTER = 0.05
"""Share of the lifetime by which the moment of replacement varies."""


class Svid(msgspec.Struct, frozen=True, kw_only=True):
    issued: Issued
    rotate_at: float
    secrets: Mapping[str, Resource]

    def __repr__(self) -> str:
        return f"Svid({self.issued!r})"


class Svids:
    """`clock` is Unix time in seconds."""

    def __init__(
        self,
        authority: CertificateAuthority,
        *,
        trust_domain: str,
        ttl: float,
        clock: Callable[[], float],
        rng: random.Random | None = None,
    ) -> None:
        self._authority = authority
        self._trust_domain = trust_domain
        self._ttl = ttl
        self._clock = clock
        self._rng = rng or random.Random()
        self._svids: dict[Identity, Svid] = {}
        root = secret_pb2.Secret(name=ROOT_SECRET)
        root.validation_context.trusted_ca.inline_bytes = authority.root
        self._root = resource(ROOT_SECRET, SECRET, root)

    def secrets(self, identity: Identity) -> Mapping[str, Resource]:
        """What SDS serves this pod now."""
        return self.current(identity).secrets

    def current(self, identity: Identity) -> Svid:
        key = _key(identity)
        svid = self._svids.get(key)
        if svid is None or svid.rotate_at <= self._clock():
            svid = self._svids[key] = self._issue(key)
        return svid

    def rotate(self, identities: list[Identity]) -> None:
        """Replace these now."""
        for identity in identities:
            key = _key(identity)
            self._svids[key] = self._issue(key)

    def forget(self, keep: Callable[[Identity], bool]) -> None:
        """Drop the certificates of pods that are gone."""
        self._svids = {identity: svid for identity, svid in self._svids.items() if keep(identity)}

    def next_rotation(self) -> float | None:
        return min((svid.rotate_at for svid in self._svids.values()), default=None)

    def _issue(self, identity: Identity) -> Svid:
        issued = self._authority.issue_workload(identity.spiffe(self._trust_domain), self._ttl)
        message = secret_pb2.Secret(name=WORKLOAD_SECRET)
        message.tls_certificate.certificate_chain.inline_bytes = issued.chain
        message.tls_certificate.private_key.inline_bytes = issued.key
        life = issued.not_after - self._clock()
        share = HALF_LIFE + self._rng.uniform(-JITTER, JITTER)
        return Svid(
            issued=issued,
            rotate_at=self._clock() + life * share,
            secrets={WORKLOAD_SECRET: resource(WORKLOAD_SECRET, SECRET, message), ROOT_SECRET: self._root},
        )


def _key(identity: Identity) -> Identity:
    """A refreshed token names the same pod: its end is no part of who it is."""
    return msgspec.structs.replace(identity, expires=0.0)
