"""Pods as Linux processes, each pod in a network namespace of its own: a world on one machine, in seconds.

    from harness.substrate.local import LocalWorld
    from manifests import load_paths

    with LocalWorld.create("trial", attached=True) as world:
        world.apply(load_paths([Path("bookinfo.yaml")]))
        world.wait_ready(deadline=30)
        client = world.pods("bookinfo", {"app": "client"})[0]
        with world.connect(("productpage", 9080), source=client) as conn:
            conn.sendall(b"GET /productpage HTTP/1.0\\r\\n\\r\\n")

A world is one supervisor process and whatever lives in the PID namespace that it keeps. When the supervisor ends,
in whatever way, so does all of it: namespaces are anonymous, so no link, address or packet rule can stay either.

* `client`: `LocalWorld`, what callers hold. `protocol`: what it says to the supervisor.
* `supervisor`: the process. `world`: objects and the loop that makes all else follow them. `launcher`: process 1.
* `pods`, `containers`, `probes`, `volumes`, `rootfs`, `variables`: the life of a pod.
* `network`, `netfilter`, `routing`, `hosts`: packets and names.
* `check`, `admission`, `store`: what may be applied, what webhooks make of it, what control planes watch.
* `cgroups`, `tokens`, `logfile`, `traces`: accounting, identity, logs, what a killed supervisor leaves.
"""

from harness.substrate.local.client import LocalWorld

__all__ = ["LocalWorld"]
