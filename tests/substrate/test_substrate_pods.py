"""The life of pods: what a container is given, probes, restarts, scaling, pausing, accounting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from manifest import config_map, deployment, documents, pod, server, service, shell
from talk import eventually, get

from harness.substrate.api import ContainerInfo, SubstrateError
from harness.substrate.local import LocalWorld

pytestmark = pytest.mark.privileged

PRIVILEGED = {"securityContext": {"runAsUser": 0, "privileged": True}}


def output_of(world: LocalWorld, space: str, name: str, container: str = "app") -> str:
    """The log of a container that has ended."""

    def ended() -> bool:
        found = world.pod(space, name)
        return found.phase in {"Succeeded", "Failed"}

    eventually(ended, what=f"the end of {name}")
    return world.logs(space, name, container)


def container(world: LocalWorld, space: str, name: str) -> ContainerInfo:
    return world.pod(space, name).containers[0]


def once(name: str, space: str, *containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return pod(name, space, *containers, restartPolicy="Never", **spec)


def test_environment_in_kubernetes_order(world: LocalWorld, space: str) -> None:
    env = [
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}},
        {"name": "WHO", "value": "$(POD)/$(COLOUR)/$$(POD)/$(UNKNOWN)"},
        {"name": "X_size", "value": "overridden"},
    ]
    app = shell("env", env=env, envFrom=[{"configMapRef": {"name": "settings"}, "prefix": "X_"}])
    settings = config_map("settings", space, colour="red", size="9")
    world.apply(documents(settings, once("one", space, app)))
    said = dict(line.split("=", 1) for line in output_of(world, space, "one").splitlines())
    assert said["WHO"] == "one/red/$(POD)/$(UNKNOWN)"
    assert said["ADDRESS"] == world.pod(space, "one").ip
    assert (said["LABEL"], said["X_colour"], said["X_size"]) == ("one", "red", "overridden")
    assert said["HOSTNAME"] == "one"


def test_config_map_volume_follows_the_map(world: LocalWorld, space: str) -> None:
    mount = {"volumeMounts": [{"name": "conf", "mountPath": "/etc/app/conf"}]}
    script = "cat /etc/app/conf/colour; until grep -q blue /etc/app/conf/colour; do sleep 0.02; done; echo changed"
    volume = {"name": "conf", "configMap": {"name": "settings"}}
    world.apply(
        documents(
            config_map("settings", space, colour="red"), once("one", space, shell(script, **mount), volumes=[volume])
        )
    )
    eventually(lambda: "red" in world.logs(space, "one", "app"), what="the first value")
    world.apply(documents(config_map("settings", space, colour="blue")))
    assert output_of(world, space, "one") == "redchanged\n"
    assert not Path("/etc/app").exists()


def test_init_containers_run_in_order_and_hand_over_files(world: LocalWorld, space: str) -> None:
    mount = {"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}
    first = shell("sleep 0.1; echo first >> /shared/order", "first", **mount)
    second = shell("echo second >> /shared/order", "second", **mount)
    app = shell("cat /shared/order", **mount)
    volume = {"name": "shared", "emptyDir": {}}
    world.apply(documents(once("one", space, app, initContainers=[first, second], volumes=[volume])))
    assert output_of(world, space, "one") == "first\nsecond\n"


def test_apps_are_nobody_special(world: LocalWorld, space: str) -> None:
    script = "id -u; id -G; grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status; ip link add x type dummy; echo rc $?"
    world.apply(documents(once("one", space, shell(script))))
    lines = output_of(world, space, "one").splitlines()
    assert lines[:2] == ["1000", "1000"]
    assert {"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"} <= set(lines)
    assert lines[-1] != "rc 0"


def test_proxy_uid_and_interception_as_in_a_real_pod(world: LocalWorld, space: str) -> None:
    """A root init container redirects what apps send; uid 1337 is exempt; the app knows nothing."""
    rules = (
        "iptables -t nat -A OUTPUT -m owner --uid-owner 1337 -j RETURN && "
        "iptables -t nat -A OUTPUT -p tcp --dport 80 -j REDIRECT --to-ports 15001"
    )
    proxy = server("proxy", 15001, securityContext={"runAsUser": 1337})
    world.apply(
        documents(
            service("far", space),
            pod("far", space, server()),
            pod("near", space, server(), proxy, initContainers=[shell(rules, "init", **PRIVILEGED)]),
        )
    )
    world.wait_ready(30, space)
    near = world.pod(space, "near")
    script = f"import urllib.request as u; print(u.urlopen('http://far.{space}/').read().decode())"
    pids = {one.name: one.pid for one in near.containers}
    assert uid_of(pids["proxy"]) == 1337
    assert answer_as(1000, pids["app"], script)["uid"] == 1337
    assert answer_as(1337, pids["app"], script)["pod"] == "far"


def uid_of(pid: int) -> int:
    return os.stat(f"/proc/{pid}").st_uid  # noqa: PTH116


def answer_as(uid: int, pid: int, script: str) -> dict[str, Any]:
    """A Python script run in a container's namespaces, as `uid`."""
    argv = ["nsenter", f"--target={pid}", "--mount", "--net", f"--setuid={uid}", "--", sys.executable, "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_host_files_are_safe_and_closed_folders_stay_closed(world: LocalWorld, space: str) -> None:
    script = "touch /usr/mine /etc/mine 2>&1; ls /root; echo x > /tmp/mine && ls /tmp /run; python3 -c 'print(6 * 7)'"
    world.apply(documents(once("one", space, shell(script))))
    said = output_of(world, space, "one").splitlines()
    assert said[-1] == "42"
    assert "mine" in said
    assert not Path("/tmp/mine").exists()
    assert sum("Read-only" in line or "Permission denied" in line for line in said) >= 2
    # Not even root may write to the host's files.
    rooted = shell("touch /usr/mine || echo refused", securityContext={"runAsUser": 0})
    world.apply(documents(once("two", space, rooted)))
    assert output_of(world, space, "two").splitlines()[-1] == "refused"
    assert not Path("/usr/mine").exists()


def test_readiness_gates_traffic(world: LocalWorld, space: str) -> None:
    world.apply(documents(service("web", space), pod("web", space, server())))
    world.wait_ready(30, space)
    assert get(world, f"web.{space}")["pod"] == "web"
    direct = world.pod(space, "web").ip
    get(world, direct, "/fail", port=8080)
    eventually(lambda: not world.pod(space, "web").ready, what="the pod to be unready")
    with pytest.raises(ConnectionRefusedError):
        world.connect((f"web.{space}", 80))
    get(world, direct, "/heal", port=8080)
    world.wait_ready(30, space)
    assert get(world, f"web.{space}")["pod"] == "web"


@pytest.mark.parametrize(
    "probe",
    [
        {"tcpSocket": {"port": 8080}},
        {"httpGet": {"port": "app-http", "path": "/ready", "httpHeaders": [{"name": "x-probe", "value": "1"}]}},
        {"exec": {"command": ["test", "-e", "/tmp/started"]}},
    ],
    ids=["tcp", "http", "exec"],
)
def test_every_kind_of_probe(world: LocalWorld, space: str, probe: dict[str, Any]) -> None:
    app = server(readinessProbe={**probe, "periodSeconds": 0.2})
    app["command"] = ["sh", "-c", 'touch /tmp/started; exec "$0" "$@"', *app["command"]]
    world.apply(documents(pod("one", space, app)))
    world.wait_ready(30, space)
    assert container(world, space, "one").ready


def test_probe_that_never_succeeds_is_explained(world: LocalWorld, space: str) -> None:
    app = server(readinessProbe={"exec": {"command": ["false"]}, "periodSeconds": 0.2})
    world.apply(documents(pod("one", space, app)))
    eventually(lambda: "listening" in world.logs(space, "one", "app"), what="the app's first words")
    with pytest.raises(SubstrateError, match=rf"(?s){space}/one.*container app: running, not ready.*\| listening"):
        world.wait_ready(1.0, space)


def test_liveness_restarts(world: LocalWorld, space: str) -> None:
    liveness = {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 0.1, "failureThreshold": 2}
    world.apply(documents(pod("one", space, server(livenessProbe={**liveness, "initialDelaySeconds": 2}))))
    world.wait_ready(30, space)
    get(world, world.pod(space, "one").ip, "/fail", port=8080)
    eventually(lambda: container(world, space, "one").restarts == 1, what="a restart")
    assert "liveness probe failed" in container(world, space, "one").last_exit
    world.wait_ready(30, space)


def test_crash_is_restarted_in_the_same_pod(world: LocalWorld, space: str) -> None:
    world.apply(documents(pod("one", space, server())))
    world.wait_ready(30, space)
    before = world.pod(space, "one")
    with pytest.raises((OSError, EOFError)):  # noqa: PT012
        get(world, before.ip, "/crash", port=8080)
        raise EOFError
    eventually(lambda: container(world, space, "one").restarts == 1, what="a restart")
    world.wait_ready(30, space)
    after = world.pod(space, "one")
    assert (after.ip, after.containers[0].last_exit) == (before.ip, "exit 7")
    assert after.containers[0].pid != before.containers[0].pid


def test_missing_program_is_explained(world: LocalWorld, space: str) -> None:
    world.apply(documents(pod("one", space, {"name": "app", "command": ["/no/such/program"]})))
    with pytest.raises(SubstrateError, match=r"could not start.*No such file"):
        world.wait_ready(1.5, space)
    assert container(world, space, "one").restarts >= 1


def test_descendants_of_a_crashed_container_die(world: LocalWorld, space: str) -> None:
    app = shell("sleep 1000 & echo $!; setsid sleep 1001 & sleep 0.2; kill -9 $$")
    world.apply(documents(once("one", space, app)))
    output_of(world, space, "one")
    eventually(lambda: not world.usage(space, "one")["app"].rss_bytes, what="no process in the container's group")


def test_scale_up_down_and_away(world: LocalWorld, space: str) -> None:
    world.apply(documents(service("web", space), deployment("web", space, server())))
    for replicas in (3, 1, 0, 2):
        world.scale(space, "web", replicas)
        world.wait_ready(30, space)
        assert sum(one.ready for one in world.pods(space)) == replicas
    assert len({one.ip for one in world.pods(space)}) == 2
    with pytest.raises(SubstrateError, match=f"no Deployment {space}/wep"):
        world.scale(space, "wep", 1)


def test_new_template_replaces_pods_without_a_gap(world: LocalWorld, space: str) -> None:
    world.apply(documents(service("web", space), deployment("web", space, server())))
    world.wait_ready(30, space)
    former = world.pods(space)[0].name
    world.apply(documents(deployment("web", space, server(env=[{"name": "VERSION", "value": "2"}]))))

    def replaced() -> bool:
        answer = get(world, f"web.{space}")
        assert answer["status"] == 200
        return answer["env"].get("VERSION") == "2"

    eventually(replaced, what="the new version")
    world.wait_ready(30, space)
    assert former not in {one.name for one in world.pods(space) if one.ready}


def test_deleted_pod_ends_gracefully_and_is_replaced(world: LocalWorld, space: str) -> None:
    world.apply(documents(deployment("web", space, server(), server("side", 8081))))
    world.wait_ready(30, space)
    former = world.pods(space)[0]
    world.delete_pod(space, former.name)
    for name in ("app", "side"):
        assert world.logs(space, former.name, name).endswith("SIGTERM\n")
    world.wait_ready(30, space)
    assert [one.name != former.name for one in world.pods(space)] == [True]
    assert not (world.state_dir / "cluster" / f"Pod.{space}.{former.name}.json").exists()


def test_stubborn_pod_is_killed_after_its_grace(world: LocalWorld, space: str) -> None:
    app = shell("trap '' TERM; while :; do sleep 0.05; done")
    world.apply(documents(pod("one", space, app, terminationGracePeriodSeconds=0.3)))
    world.wait_ready(30, space)
    world.delete_pod(space, "one")
    assert [one.name for one in world.pods(space)] == []


def test_pause_keeps_connections_and_answers_nothing(world: LocalWorld, space: str) -> None:
    never = {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 0.2, "failureThreshold": 1000}
    world.apply(documents(pod("one", space, server(readinessProbe=never))))
    world.wait_ready(30, space)
    address = (world.pod(space, "one").ip, 8080)
    world.pause(space, "one")
    assert container(world, space, "one").state == "paused"
    with world.connect(address) as conn:
        conn.sendall(b"GET / HTTP/1.0\r\n\r\n")
        conn.settimeout(0.5)
        with pytest.raises(TimeoutError):
            conn.recv(1)
        world.resume(space, "one")
        conn.settimeout(10)
        assert conn.recv(100).startswith(b"HTTP/1.1 200")
    assert container(world, space, "one").restarts == 0


def test_kill_of_a_paused_container_restarts_it(world: LocalWorld, space: str) -> None:
    world.apply(documents(pod("one", space, server())))
    world.wait_ready(30, space)
    world.pause(space, "one", "app")
    world.kill(space, "one", "app")
    world.wait_ready(30, space)
    now = container(world, space, "one")
    assert (now.state, now.restarts, now.last_exit) == ("running", 1, "signal 9")


def test_restart_in_place(world: LocalWorld, space: str) -> None:
    world.apply(documents(pod("one", space, server(), server("side", 8081))))
    world.wait_ready(30, space)
    before = world.pod(space, "one")
    world.restart(space, "one", "app")
    world.wait_ready(30, space)
    after = world.pod(space, "one")
    assert after.ip == before.ip
    assert [one.restarts for one in after.containers] == [1, 0]
    assert after.containers[1].pid == before.containers[1].pid
    assert "SIGTERM" in world.logs(space, "one", "app")


def test_usage_is_the_kernels(world: LocalWorld, space: str) -> None:
    """It counts descendants, memory held, and goes on over a restart."""
    burn = "import time; held = bytearray(64 << 20)\nwhile time.process_time() < 0.6: pass\ntime.sleep(1000)"
    script = f"{sys.executable} -c '{burn}'; true"
    world.apply(documents(pod("one", space, shell(script), shell("sleep 1000", "idle"))))
    eventually(lambda: world.usage(space, "one")["app"].cpu_seconds >= 0.5, what="half a second of CPU")
    usage = world.usage(space, "one")
    assert usage["app"].rss_bytes > 64 << 20
    assert usage["app"].peak_rss_bytes >= usage["app"].rss_bytes
    assert usage["idle"].cpu_seconds < 0.4
    assert usage["idle"].rss_bytes < 32 << 20
    world.kill(space, "one", "app")
    again = world.usage(space, "one")["app"]
    assert again.cpu_seconds >= usage["app"].cpu_seconds
    assert again.peak_rss_bytes > 64 << 20


def test_limits_hold(world: LocalWorld, space: str) -> None:
    hog = shell(f"{sys.executable} -c 'held = bytearray(200 << 20)'; echo $?", resources={"limits": {"memory": "64Mi"}})
    spin = shell("while :; do :; done", "spin", resources={"limits": {"cpu": "100m"}})
    world.apply(documents(pod("one", space, hog, spin)))
    eventually(lambda: world.usage(space, "one")["spin"].throttled_periods > 3, what="throttled periods")
    eventually(lambda: world.logs(space, "one", "app") or container(world, space, "one").restarts, what="the hog's end")
    assert "0" not in world.logs(space, "one", "app").split()


def test_orders_for_what_is_not_there(world: LocalWorld, space: str) -> None:
    with pytest.raises(SubstrateError, match=f"no pod {space}/ghost"):
        world.kill(space, "ghost")
    world.apply(documents(pod("one", space, shell("sleep 1000"))))
    world.wait_ready(30, space)
    with pytest.raises(SubstrateError, match="no container 'ghost'; it has: app"):
        world.logs(space, "one", "ghost")
