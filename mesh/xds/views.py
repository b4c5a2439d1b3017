"""Compiled views: one compilation per (view, generation), one copy of every resource whoever shares it.

A compiler is handed the view key and nothing else of a proxy. What did not change keeps its identity from one
generation to the next (the same `Resource`, and the same mapping when no resource of a type changed), so streams can
tell "nothing to do" by `is`, and their bytes are in memory once.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping

import msgspec

from mesh.resource import CLUSTER, LISTENER, ROUTE, Resource, ResourceSet
from mesh.view import ViewKey

Compile = Callable[[ViewKey], ResourceSet]


CONFIGURED = (CLUSTER, LISTENER, ROUTE)

log = logging.getLogger("mesh.xds")


class Uncompilable(Exception):
    """A view cannot be compiled, and there is no earlier generation of it to go on with."""


class View(msgspec.Struct, frozen=True, kw_only=True):
    generation: int
    resources: ResourceSet
    seconds: float
    """What compiling took."""
    error: str = ""
    """Why the resources are still those of an earlier generation; empty when they are not."""


class Views:
    def __init__(self, observe: Callable[[float], None] = lambda seconds: None) -> None:
        self._views: dict[ViewKey, View] = {}
        self._shared: dict[tuple[str, str, str], Resource] = {}
        self.compile: Compile = lambda view: {}
        self._observe = observe
        self.generation = 0

    def publish(self, compile_: Compile) -> int:
        """A new generation, of which views are compiled when they are first asked for."""
        self.compile = compile_
        self.generation += 1
        return self.generation

    def get(self, key: ViewKey) -> View:
        before = self._views.get(key)
        if before is not None and before.generation == self.generation:
            return before
        started = time.perf_counter()
        error = ""
        try:
            resources = self._keep(self.compile(key), before.resources if before else {})
        except Exception as exc:
            # One view that cannot be compiled must not take the others, or what its proxies run, with it.
            log.exception("view %s cannot be compiled", key)
            error = f"{type(exc).__name__}: {exc}"
            if before is None:
                raise Uncompilable(error) from exc
            resources = before.resources
        seconds = time.perf_counter() - started
        self._observe(seconds)
        view = View(generation=self.generation, resources=resources, seconds=seconds, error=error)
        self._views[key] = view
        return view

    def retain(self, keys: set[ViewKey]) -> None:
        """Forget views that nobody has any more."""
        self._views = {key: view for key, view in self._views.items() if key in keys}
        self._shared = {
            (type_url, r.name, r.version): r
            for view in self._views.values()
            for type_url, held in view.resources.items()
            for r in held.values()
        }

    def _keep(self, new: ResourceSet, before: ResourceSet) -> ResourceSet:
        kept: dict[str, Mapping[str, Resource]] = {}
        for type_url, held in new.items():
            had = before.get(type_url, {})
            shared = {
                name: self._shared.setdefault((type_url, name, resource.version), resource)
                for name, resource in held.items()
            }
            same = len(had) == len(shared) and all(had.get(name) is r for name, r in shared.items())
            kept[type_url] = had if same else shared
        return kept


def digest(views: Mapping[ViewKey, ResourceSet | None]) -> str:
    """A digest over what configuration decides in every view (None: one that cannot be compiled): the version of every
    cluster, listener and route. Independent of order, history and secrets, and of endpoints: a pod that is replaced
    by its like is no change of configuration."""
    hasher = hashlib.blake2b(digest_size=16)
    for key in sorted(views):
        hasher.update(msgspec.json.encode(key))
        resources = views[key]
        if resources is None:
            hasher.update(b"uncompilable")
            continue
        for type_url in CONFIGURED:
            held = resources.get(type_url, {})
            for name in sorted(held):
                hasher.update(f"{type_url}\0{name}\0{held[name].version}\0".encode())
    return hasher.hexdigest()
