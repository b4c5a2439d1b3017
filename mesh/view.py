"""The view key: everything a proxy may influence of what it is served.

Compilation is a function of the view alone, never of one proxy. Two proxies with one key get the same bytes, which
are built and serialised once; and because a generator is handed nothing else, it cannot depend on more than its key.
"""

from __future__ import annotations

import msgspec


class ViewKey(msgspec.Struct, frozen=True, kw_only=True, order=True):
    namespace: str
    labels: tuple[tuple[str, str], ...]
    """The workload's labels, sorted: what selectors of policies, Sidecars and Services match."""
    service_account: str = "default"


def view_key(namespace: str, labels: dict[str, str], service_account: str) -> ViewKey:
    return ViewKey(namespace=namespace, labels=tuple(sorted(labels.items())), service_account=service_account)
