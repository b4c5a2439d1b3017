"""Splitting a route's traffic over its backends when some of them do not exist.

The missing ones' share gets an error of the proxy's own; the others keep exactly theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mesh.model.routes import Answer, Backend, Forward, Route


def share_out(
    base: Route, forward: Forward, backends: Sequence[tuple[Backend | None, int]], missing: int
) -> list[Route]:
    """`base` forwarding to the backends that exist, after a route that answers `missing` for the share of those that
    do not. Without any weight at all everything is answered so."""
    total = sum(weight for _, weight in backends)
    present = tuple(backend for backend, weight in backends if backend is not None and weight > 0)
    there = sum(backend.weight for backend in present)
    refused = Answer(status=missing)
    if there == 0:
        return [msgspec.structs.replace(base, action=refused)]
    routed = msgspec.structs.replace(base, action=msgspec.structs.replace(forward, backends=present))
    if there == total:
        return [routed]
    partial = msgspec.structs.replace(base.match, percent=100.0 * (total - there) / total)
    return [msgspec.structs.replace(base, match=partial, action=refused), routed]
