"""The declared service-time profile: how long each bookinfo service works on a request. Pure.

A service's time is log-normal, with a median and a sigma (the standard deviation of its logarithm), cut at the
quantile `cut` (what lies above is not drawn, so that one request in a million cannot decide a percentile).

With a seed in the request (header `x-profile-seed`) the time is a function of seed, service and profile alone: two
requests with one seed cost the same in every arm of a comparison. Without one it is drawn from a generator of the
process, seeded by the service and the pod, so a restart repeats it.

The default profile, per service, in milliseconds (`DEFAULTS`):

===========  ======  =====  =====  =======
service      median  sigma  P99    largest
===========  ======  =====  =====  =======
productpage     6.0   0.50   18.9     28.1
details         5.0   0.50   15.7     23.4
reviews        10.0   0.50   31.4     46.9
ratings         8.0   0.50   25.1     37.5
===========  ======  =====  =====  =======

A page calls all four, one after the other, so its service time is their sum: median 31.5 ms, P99 58.6 ms with stars
(v2, v3); median 22.6 ms, P99 46.5 ms without (v1, which asks for no ratings). What the network, the proxies and the
apps' own CPU add comes on top.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping
from statistics import NormalDist

import msgspec

SEED_HEADER = "x-profile-seed"
"""The load generator's `SEED_HEADER`, which may not be imported here; a test holds them equal."""

_NORMAL = NormalDist()


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """One service's work."""

    median_ms: float
    """Of the uncut distribution."""
    sigma: float = 0.5
    cut: float = 0.999
    """Quantile of the uncut distribution above which nothing is drawn; 1.0 cuts nothing."""
    cpu_fraction: float = 0.0
    """Share of the time spent computing rather than waiting. 0 by default: on a small machine the apps' CPU would
    compete with the proxies that are measured."""

    def quantile(self, p: float) -> float:
        """Milliseconds that a share `p` (between 0 and 1, exclusive) of requests stays within."""
        return self.median_ms * math.exp(self.sigma * _NORMAL.inv_cdf(p * self.cut))

    @property
    def largest_ms(self) -> float:
        """No request takes longer; infinite when nothing is cut."""
        return math.inf if self.cut >= 1.0 else self.quantile(1.0)

    def time_ms(self, service: str, seed: str) -> float:
        """The service time of the request with `seed`."""
        return self.quantile(uniform(service, seed)) if self.median_ms > 0 else 0.0


DEFAULTS: Mapping[str, Profile] = {
    "productpage": Profile(median_ms=6.0),
    "details": Profile(median_ms=5.0),
    "reviews": Profile(median_ms=10.0),
    "ratings": Profile(median_ms=8.0),
}


def uniform(service: str, seed: str) -> float:
    """A number in (0, 1), uniform over seeds and independent between services."""
    digest = hashlib.blake2b(f"{service}\0{seed}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 12) * 2.0**-52 + 2.0**-53


class InvalidProfile(ValueError):
    """An environment variable of the profile has a value outside its range; the message names both."""


def from_environment(service: str, environ: Mapping[str, str]) -> Profile:
    """`service`'s profile with the overrides `PROFILE_MEDIAN_MS`, `PROFILE_SIGMA`, `PROFILE_CUT`,
    `PROFILE_CPU_FRACTION`; `PROFILE_OFF=1` makes every time zero."""
    default = DEFAULTS[service]
    if environ.get("PROFILE_OFF", "") not in ("", "0", "false"):
        return Profile(median_ms=0.0)
    return Profile(
        median_ms=_number(environ, "PROFILE_MEDIAN_MS", default.median_ms, 0.0, 60_000.0),
        sigma=_number(environ, "PROFILE_SIGMA", default.sigma, 0.0, 3.0),
        cut=_number(environ, "PROFILE_CUT", default.cut, 0.5, 1.0),
        cpu_fraction=_number(environ, "PROFILE_CPU_FRACTION", default.cpu_fraction, 0.0, 1.0),
    )


def _number(environ: Mapping[str, str], name: str, default: float, low: float, high: float) -> float:
    text = environ.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise InvalidProfile(f"{name}={text!r}: expected a number from {low:g} to {high:g}")
    return value


class Draws:
    """Service times of one process: by the request's seed, or else from its own generator."""

    def __init__(self, service: str, profile: Profile, instance: str = "") -> None:
        self.service = service
        self.profile = profile
        self._own = random.Random(f"{service}\0{instance}")

    def time_ms(self, seed: str | None) -> float:
        if self.profile.median_ms <= 0:
            return 0.0
        if seed:
            return self.profile.time_ms(self.service, seed)
        return self.profile.quantile(max(self._own.random(), 2.0**-54))
