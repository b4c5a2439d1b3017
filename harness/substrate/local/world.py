"""A world as its supervisor holds it: objects, and the loop that makes pods, packet rules and names follow them.

Level-triggered: whatever changes calls `touch`, and one loop brings everything in line with what is wanted now.
`flush` waits until the loop has seen the present state, so that an order is only reported done when packets already
obey it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from harness.substrate.api import PodInfo, ServiceInfo, SubstrateError, Usage, Webhook
from harness.substrate.local import admission, check, logfile, netfilter, rootfs, routing
from harness.substrate.local.cgroups import Layout
from harness.substrate.local.hosts import LOCALHOST, HostsFile
from harness.substrate.local.network import Network, PodLink
from harness.substrate.local.paths import WorldPaths
from harness.substrate.local.pods import PodRunner, Surroundings
from harness.substrate.local.processes import Launcher
from harness.substrate.local.protocol import DeploymentInfo
from harness.substrate.local.store import Store, new_metadata
from harness.substrate.local.tokens import Issuer
from manifests import Document
from manifests.kube import ConfigMap, CoreObject, Deployment, Namespace, ObjectMeta, Pod, PodTemplate, Service

log = logging.getLogger(__name__)

_HOUSEKEEPING_SECONDS: Final = 1.0
_KEPT_LOGS: Final = 200
"""Log files of ended pods that stay to be read."""
_RETRY_SECONDS: Final = 0.3
_SUFFIX_LETTERS: Final = "bcdfghjklmnpqrstvwxz2456789"
"""Kubernetes' alphabet for generated names: no vowels, so no words."""


class World:
    def __init__(self, paths: WorldPaths, launcher: Launcher, network: Network, layout: Layout) -> None:
        self.paths = paths
        self.store = Store(paths)
        self.webhooks: list[Webhook] = []
        self._network = network
        self._issuer = Issuer()
        self._pods: dict[tuple[str, str], PodRunner] = {}
        self._bare: dict[tuple[str, str], Pod] = {}
        """Bare pods as they were asked for."""
        self._creating: dict[tuple[str, str], tuple[str, str]] = {}
        """Pods in admission: (namespace, pod name) to (owner, template hash)."""
        self._problems: dict[tuple[str, str], str] = {}
        """(namespace, Deployment or bare Pod) to why it cannot be created."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._node_hosts = HostsFile(paths.hosts)
        self._chains: list[str] = []
        self._rules: list[netfilter.ServicePortRule] = []
        self._wanted = 1
        self._seen = 0
        self._trouble = ""
        """Why the last pass of the loop failed."""
        self._wake = asyncio.Event()
        self._progress = asyncio.Condition()
        self._random = random.Random()
        self._around = Surroundings(
            paths=paths,
            network=network,
            launcher=launcher,
            layout=layout,
            root=rootfs.plan(paths.staging, rootfs.needed_trees()),
            issuer=self._issuer,
            config_maps=self.store.config_maps,
            names=self._names,
            plumb=_plumb,
            changed=self.touch,
        )

    async def open(self) -> None:
        self.paths.write(self.paths.issuer / "jwks.json", msgspec.json.encode(self._issuer.jwks()))
        await self._network.open()
        await self._network.run(lambda: netfilter.restore(netfilter.base()))
        self._spawn(self._follow())
        self._spawn(self._keep_house())

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a task of the world failed", exc_info=task.exception())

    # --- the loop

    def touch(self) -> None:
        self._wanted += 1
        self._wake.set()

    async def settle(self) -> None:
        """Until everything that was wanted at this call is in effect, or cannot be at present."""
        target = self._wanted
        async with self._progress:
            await self._progress.wait_for(lambda: self._seen >= target or bool(self._trouble))

    async def flush(self) -> None:
        """`settle`, and `SubstrateError` when it cannot be."""
        await self.settle()
        if self._trouble:
            raise SubstrateError(f"world {self.paths.name} cannot be brought in line: {self._trouble}")

    async def _follow(self) -> None:
        while True:
            self._wake.clear()
            aim = self._wanted
            try:
                self._reap()
                self._reconcile()
                self._observe()
                self._update_hosts()
                await self._update_rules()
                self._trouble = ""
            except Exception as exc:
                log.exception("could not bring the world in line; trying again")
                self._trouble = f"{type(exc).__name__}: {exc}"
            async with self._progress:
                if not self._trouble:
                    self._seen = aim
                self._progress.notify_all()
            if self._trouble:
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            await self._wake.wait()

    def _reap(self) -> None:
        for key, runner in list(self._pods.items()):
            if runner.gone.is_set():
                del self._pods[key]
                self.store.remove(("Pod", *key))

    def _reconcile(self) -> None:
        for deployment in self.store.of(Deployment):
            self._reconcile_deployment(deployment)
        for key, pod in self._bare.items():
            if key not in self._pods and key not in self._creating and key not in self._problems:
                self._create(pod, owner="", template="")

    def _reconcile_deployment(self, deployment: Deployment) -> None:
        namespace, name = deployment.metadata.namespace, deployment.metadata.name
        template = _hash(deployment.spec.template)
        mine = [
            runner
            for runner in self._pods.values()
            if runner.namespace == namespace and runner.owner == name and not runner.deleting
        ]
        present = [runner for runner in mine if runner.template == template]
        former = [runner for runner in mine if runner.template != template]
        coming = sum(1 for key, made in self._creating.items() if key[0] == namespace and made == (name, template))
        replicas = deployment.spec.replicas
        if (namespace, name) not in self._problems:
            for _ in range(replicas - len(present) - coming):
                self._create(self._from_template(deployment, template), owner=name, template=template)
        # The ones not ready go first, then the youngest.
        youngest_first = list(reversed(present))
        surplus = sorted(youngest_first, key=lambda runner: runner.ready)[: max(0, len(present) - replicas)]
        if sum(runner.ready for runner in present) >= replicas:
            surplus += former
        for runner in surplus:
            runner.deleting = True
            self._spawn(self._end(runner))

    def _from_template(self, deployment: Deployment, template: str) -> Pod:
        metadata = deployment.spec.template.metadata
        suffix = "".join(self._random.choices(_SUFFIX_LETTERS, k=5))
        return Pod(
            metadata=ObjectMeta(
                name=f"{deployment.metadata.name}-{template}-{suffix}",
                namespace=deployment.metadata.namespace,
                labels=metadata.labels,
                annotations=metadata.annotations,
            ),
            spec=deployment.spec.template.spec,
        )

    def _create(self, pod: Pod, *, owner: str, template: str) -> None:
        key = (pod.metadata.namespace, pod.metadata.name)
        pod = msgspec.structs.replace(pod, metadata=new_metadata(pod.metadata, key[0]))
        self._creating[key] = (owner, template)
        self._spawn(self._admit(pod, owner, template))

    async def _admit(self, pod: Pod, owner: str, template: str) -> None:
        key = (pod.metadata.namespace, pod.metadata.name)
        cause = (key[0], owner or key[1])
        namespace = self.store.objects.get(("Namespace", "", key[0]))
        labels = namespace.metadata.labels if namespace is not None else {}
        try:
            pod = await admission.admit(pod, [hook for hook in self.webhooks if admission.matches(hook, labels)])
        except SubstrateError as exc:
            self._problems[cause] = str(exc)
            self._creating.pop(key, None)
            await asyncio.sleep(_RETRY_SECONDS)
            self._problems.pop(cause, None)
            self.touch()
            return
        if self._creating.pop(key, None) is None or not self._still_wanted(key, owner, template):
            self.touch()
            return
        runner = PodRunner(pod, self._around, owner=owner, template=template)
        self._pods[key] = runner
        self.store.put(pod)
        runner.start()
        self.touch()

    def _still_wanted(self, key: tuple[str, str], owner: str, template: str) -> bool:
        if not owner:
            return key in self._bare
        deployment = self.store.objects.get(("Deployment", key[0], owner))
        return isinstance(deployment, Deployment) and _hash(deployment.spec.template) == template

    async def _end(self, runner: PodRunner, grace: float | None = None) -> None:
        """Endpoints first, then SIGTERM: nobody is sent to a pod that is shutting down."""
        runner.deleting = True
        self.touch()
        await self.flush()
        await runner.stop(grace)
        self.touch()

    def _observe(self) -> None:
        for runner in self._pods.values():
            self.store.put(runner.observe())

    def _names(self, namespace: str) -> list[str]:
        return [LOCALHOST, *routing.host_lines(self.store.of(Service), list(self._pods.values()), namespace)]

    def _update_hosts(self) -> None:
        pods = list(self._pods.values())
        by_namespace: dict[str, list[str]] = {}
        for runner in [*pods, None]:
            namespace = runner.namespace if runner is not None else check.DEFAULT_NAMESPACE
            if namespace not in by_namespace:
                by_namespace[namespace] = self._names(namespace)
            if runner is not None:
                runner.update_hosts(by_namespace[namespace])
        self._node_hosts.update(by_namespace[check.DEFAULT_NAMESPACE])

    async def _update_rules(self) -> None:
        rules = routing.service_rules(self.store.of(Service), self._pods.values())
        if rules != self._rules:
            text = netfilter.render(rules, self._chains)
            await self._network.run(lambda: netfilter.restore(text))
            self._rules, self._chains = rules, [rule.chain for rule in rules]

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(_HOUSEKEEPING_SECONDS)
            live = set()
            for runner in list(self._pods.values()):
                runner.refresh()
                runner.trim_logs()
                live |= {container.log for container in runner.runners}
            ended = [path for path in self.paths.logs.glob("*.*.*.log") if path not in live]
            for path in sorted(ended, key=lambda path: path.stat().st_mtime)[: max(0, len(ended) - _KEPT_LOGS)]:
                path.unlink()

    # --- orders

    async def apply(self, documents: Iterable[Document]) -> None:
        existing: dict[check.Key, CoreObject] = {
            **self.store.objects,
            **{("Pod", *key): pod for key, pod in self._bare.items()},
        }
        objects = check.check(documents, existing)
        for obj in objects:
            self._put(obj)
        self.touch()
        await self.flush()

    def _put(self, obj: CoreObject) -> None:
        kind, namespace, name = check.key_of(obj)
        before = self.store.objects.get((kind, namespace, name))
        if before is None:
            metadata = new_metadata(obj.metadata, namespace)
        else:
            # Identity stays; what the manifest says of the rest is taken over.
            metadata = msgspec.structs.replace(
                obj.metadata,
                namespace=namespace,
                uid=before.metadata.uid,
                creation_timestamp=before.metadata.creation_timestamp,
                generation=before.metadata.generation + (_bare_spec(before) != _bare_spec(obj)),
            )
        obj = msgspec.structs.replace(obj, metadata=metadata)
        if isinstance(obj, Pod):
            self._bare[(namespace, name)] = msgspec.structs.replace(
                obj, metadata=msgspec.structs.replace(metadata, uid="", creation_timestamp=None, generation=0)
            )
            runner = self._pods.get((namespace, name))
            if runner is not None:
                runner.update_metadata(obj)
            return
        if isinstance(obj, Service):
            obj = routing.with_cluster_ip(obj, before, self.store.of(Service))
        self.store.put(obj)
        if isinstance(obj, ConfigMap):
            for runner in self._pods.values():
                if runner.namespace == namespace:
                    runner.write_config()

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        if kind == "Pod":
            await self.delete_pod(namespace, name)
            return
        key = (kind, "" if kind == "Namespace" else namespace or check.DEFAULT_NAMESPACE, name)
        if key not in self.store.objects:
            raise SubstrateError(f"there is no {kind} {key[1]}/{name} in world {self.paths.name}")
        ending: list[PodRunner] = []
        if kind == "Namespace":
            for other in [other for other in self.store.objects if other[1] == name and other[0] != "Pod"]:
                self.store.remove(other)
            for pod in [pod for pod in self._bare if pod[0] == name]:
                del self._bare[pod]
            ending = [runner for runner in self._pods.values() if runner.namespace == name]
        elif kind == "Deployment":
            ending = [runner for runner in self._pods.values() if (runner.namespace, runner.owner) == key[1:]]
        self.store.remove(key)
        self.touch()
        await asyncio.gather(*(self._end(runner) for runner in ending))
        await self.flush()

    async def delete_pod(self, namespace: str, name: str) -> None:
        self._bare.pop((namespace, name), None)
        creating = self._creating.pop((namespace, name), None)
        if creating is None or (namespace, name) in self._pods:
            await self._end(self.runner(namespace, name))
        await self.flush()

    async def scale(self, namespace: str, name: str, replicas: int) -> None:
        deployment = self.store.objects.get(("Deployment", namespace, name))
        if not isinstance(deployment, Deployment):
            known = ", ".join(sorted(f"{d.metadata.namespace}/{d.metadata.name}" for d in self.store.of(Deployment)))
            raise SubstrateError(f"there is no Deployment {namespace}/{name}; there are: {known or 'none'}")
        if replicas < 0:
            raise SubstrateError(f"replicas cannot be {replicas}")
        spec = msgspec.structs.replace(deployment.spec, replicas=replicas)
        metadata = msgspec.structs.replace(deployment.metadata, generation=deployment.metadata.generation + 1)
        self.store.put(msgspec.structs.replace(deployment, spec=spec, metadata=metadata))
        self.touch()
        await self.flush()

    async def wait_ready(self, deadline: float, namespace: str | None) -> None:
        try:
            async with asyncio.timeout(deadline):
                while True:
                    await self.flush()
                    if not self._unready(namespace):
                        return
                    async with self._progress:
                        await self._progress.wait()
        except TimeoutError:
            raise SubstrateError(
                f"world {self.paths.name}: not ready after {deadline:g} s:\n" + "\n".join(self._unready(namespace))
            ) from None

    def _unready(self, namespace: str | None) -> list[str]:
        """What is wanted and not there, each with what is known of why."""
        missing = []
        for deployment in self.store.of(Deployment):
            place, name = deployment.metadata.namespace, deployment.metadata.name
            if namespace not in {None, place}:
                continue
            template = _hash(deployment.spec.template)
            mine = [r for r in self._pods.values() if (r.namespace, r.owner) == (place, name) and not r.deleting]
            ready = [runner for runner in mine if runner.template == template and runner.ready]
            if len(ready) == deployment.spec.replicas == len(mine):
                continue
            text = f"Deployment {place}/{name}: {len(ready)} of {deployment.spec.replicas} ready"
            if (place, name) in self._problems:
                text += f"; {self._problems[place, name]}"
            missing.append("\n".join([text, *(runner.describe() for runner in mine if not runner.ready)]))
        for key in self._bare:
            if namespace not in {None, key[0]}:
                continue
            bare = self._pods.get(key)
            if bare is None:
                missing.append(f"Pod {key[0]}/{key[1]}: not created; {self._problems.get(key, 'waiting')}")
            elif not bare.ready and bare.info.phase != "Succeeded":
                missing.append(bare.describe())
        return missing

    # --- questions

    def runner(self, namespace: str, name: str) -> PodRunner:
        runner = self._pods.get((namespace, name))
        if runner is None:
            known = ", ".join(sorted(name for place, name in self._pods if place == namespace)) or "none"
            raise SubstrateError(f"there is no pod {namespace}/{name}; pods of {namespace}: {known}")
        return runner

    def pods(self, namespace: str | None, labels: Mapping[str, str]) -> list[PodInfo]:
        return [
            runner.info
            for _, runner in sorted(self._pods.items())
            if namespace in {None, runner.namespace} and routing.selects(labels, runner.pod.metadata.labels)
        ]

    def deployments(self, namespace: str | None) -> list[DeploymentInfo]:
        return [
            DeploymentInfo(
                namespace=deployment.metadata.namespace,
                name=deployment.metadata.name,
                replicas=deployment.spec.replicas,
                problem=self._problems.get((deployment.metadata.namespace, deployment.metadata.name), ""),
            )
            for deployment in self.store.of(Deployment)
            if namespace in {None, deployment.metadata.namespace}
        ]

    def services(self, namespace: str | None) -> list[ServiceInfo]:
        return [
            routing.service_info(service)
            for service in self.store.of(Service)
            if namespace in {None, service.metadata.namespace}
        ]

    def resolve(self, host: str, namespace: str) -> str:
        return routing.resolve(host, namespace, list(self.store.of(Service)), list(self._pods.values()))

    def usage(self, namespace: str, name: str) -> dict[str, Usage]:
        return self.runner(namespace, name).usage()

    def logs(self, namespace: str, pod: str, container: str) -> str:
        path = self.paths.logs / f"{namespace}.{pod}.{container}.log"
        found = self._pods.get((namespace, pod))
        if found is not None:
            found.declared(container)
        elif not path.exists():
            self.runner(namespace, pod)  # says which pods there are
        return logfile.read(path)

    async def rejected(self) -> int:
        return await self._network.run(netfilter.rejected)

    async def close(self) -> None:
        for runner in self._pods.values():
            runner.abandon()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _plumb(link: PodLink, add: bool) -> None:
    netfilter.restore(netfilter.hairpin(link.interface, link.ip, add=add))


def _hash(template: PodTemplate) -> str:
    return hashlib.blake2b(msgspec.json.encode(template), digest_size=5).hexdigest()


def _bare_spec(obj: CoreObject) -> object:
    return None if isinstance(obj, Namespace) else msgspec.structs.asdict(obj).get("spec")
