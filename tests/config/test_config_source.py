"""The watched folder: changed all or nothing, always the last set that was valid as a whole."""

# ruff: noqa: ASYNC110, ASYNC240 - what a test waits for has no event, and its files are few and local.

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from manifests import InvalidManifests, load_text
from mesh.config.source import FileSource
from mesh.config.store import JOURNAL
from mesh.registry.types import Port, Registry, Service

DEADLINE = 10.0

RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: bookinfo}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}]}
"""


def route(subset: str = "", name: str = "reviews", host: str = "reviews", timeout: str = "1s") -> str:
    destination = f"{{host: {host}, subset: {subset}}}" if subset else f"{{host: {host}}}"
    return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: bookinfo}}
spec: {{hosts: [{name}], http: [{{timeout: {timeout}, route: [{{destination: {destination}}}]}}]}}
"""


def cluster(*names: str) -> Registry:
    services = {
        f"{name}.bookinfo.svc.cluster.local": Service(
            hostname=f"{name}.bookinfo.svc.cluster.local",
            namespace="bookinfo",
            name=name,
            ports=(Port(number=9080, name="http", protocol="http", target=9080),),
            addresses=("10.96.0.1",),
            resolution="endpoints",
        )
        for name in names
    }
    return Registry(services=services, endpoints={}, workloads={}, namespaces={})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def opened(folder: Path) -> FileSource:
    source = FileSource(folder)
    source.load()
    return source


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[FileSource]:
    source = opened(folder)
    task = asyncio.create_task(source.run())
    await asyncio.sleep(0)
    try:
        yield source
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(source: FileSource, condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.01)


def test_apply_writes_one_file_per_object(tmp_path: Path) -> None:
    async def run() -> None:
        source = opened(tmp_path)
        await source.apply(load_text(RULE + "---" + route("v1")))
        assert {path.name for path in tmp_path.glob("*.yaml")} == {
            "DestinationRule.bookinfo.reviews.yaml",
            "VirtualService.bookinfo.reviews.yaml",
        }
        assert [config.ref for config in source.snapshot.all] == [
            "VirtualService/bookinfo/reviews",
            "DestinationRule/bookinfo/reviews",
        ]
        assert opened(tmp_path).snapshot == source.snapshot, "another reader of the folder sees something else"

    asyncio.run(run())


@pytest.mark.parametrize(
    "text",
    [
        route("v9"),
        route(host="nobody"),
        route() + "---" + route("v9", name="ratings"),
        route().replace("timeout: 1s", "timeout: soon"),
        RULE.replace("v1", "v2"),
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: []}\n",
    ],
    ids=["subset", "host", "one of two", "duration", "breaks another object", "not ours"],
)
def test_an_invalid_change_changes_nothing(tmp_path: Path, text: str) -> None:
    async def run() -> None:
        registry = cluster("reviews", "ratings")
        source = opened(tmp_path)
        await source.apply(load_text(RULE + "---" + route("v1", name="productpage")), registry)
        files, snapshot = contents(tmp_path), source.snapshot
        with pytest.raises(InvalidManifests):
            await source.apply(load_text(text), registry)
        with pytest.raises(InvalidManifests):
            source.validate(load_text(text), registry)
        assert contents(tmp_path) == files
        assert source.snapshot is snapshot
        assert source.status.ok

    asyncio.run(run())


@pytest.mark.parametrize("path", sorted((Path(__file__).parent / "broken").glob("*.yaml")), ids=lambda path: path.stem)
def test_no_broken_manifest_changes_anything(tmp_path: Path, path: Path) -> None:
    async def run() -> None:
        registry = cluster("productpage", "details", "reviews", "ratings")
        source = opened(tmp_path)
        await source.apply(load_text(route(name="productpage")), registry)
        files, snapshot = contents(tmp_path), source.snapshot
        with pytest.raises(InvalidManifests) as refusal:
            await source.apply(load_text(path.read_text(), path.name), registry)
        assert all(error.file == path.name and error.line > 0 for error in refusal.value.errors)
        assert contents(tmp_path) == files
        assert source.snapshot is snapshot

    asyncio.run(run())


def test_delete_is_validated_too(tmp_path: Path) -> None:
    async def run() -> None:
        source = opened(tmp_path)
        empty = source.snapshot.digest
        await source.apply(load_text(RULE + "---" + route("v1")))
        files = contents(tmp_path)
        with pytest.raises(InvalidManifests) as refusal:
            await source.delete(load_text(RULE))
        assert refusal.value.errors[0].field == "spec.http[0].route[0].destination.subset"
        assert contents(tmp_path) == files
        await source.delete(load_text(RULE + "---" + route("v1")))
        assert list(tmp_path.glob("*.yaml")) == []
        assert source.snapshot.digest == empty
        await source.delete(load_text(RULE))

    asyncio.run(run())


def test_an_edited_folder_is_taken_over_when_it_is_valid(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as source:
            (tmp_path / "mine.yaml").write_text(RULE + "---" + route("v1"))
            await until(source, lambda: len(source.snapshot) == 2)
            good = source.snapshot
            (tmp_path / "mine.yaml").write_text(RULE + "---" + route("v7"))
            await until(source, lambda: not source.status.ok)
            assert source.snapshot is good, "an invalid set came into force"
            status = source.status.objects["VirtualService/bookinfo/reviews"]
            assert (status.accepted, status.reason, status.observed_generation) == (False, "Invalid", 1)
            assert status.errors[0].field == "spec.http[0].route[0].destination.subset"
            assert source.status.objects["DestinationRule/bookinfo/reviews"].accepted, "what is in force is accepted"
            with pytest.raises(InvalidManifests):
                await source.apply(load_text(route(name="ratings")))
            (tmp_path / "mine.yaml").write_text(RULE + "---" + route("v1", timeout="2s"))
            await until(source, lambda: source.status.ok)
            virtual_service = source.snapshot.virtual_services[0]
            assert virtual_service.spec.http[0].timeout == 2.0
            assert virtual_service.meta.generation == 2
            assert virtual_service.meta.created == good.virtual_services[0].meta.created

    asyncio.run(run())


def test_a_file_that_is_not_yaml_keeps_the_last_good_set(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as source:
            await source.apply(load_text(route()))
            (tmp_path / "broken.yaml").write_text("a: [")
            await until(source, lambda: not source.status.ok)
            assert len(source.snapshot) == 1
            assert source.status.errors[0].file == str(tmp_path / "broken.yaml")
            (tmp_path / "broken.yaml").unlink()
            await until(source, lambda: source.status.ok)

    asyncio.run(run())


def test_followers_see_the_newest_snapshot(tmp_path: Path) -> None:
    async def run() -> None:
        source = opened(tmp_path)
        changes = source.changes()
        assert len(await anext(changes)) == 0
        await source.apply(load_text(route()))
        await source.apply(load_text(RULE))
        async with asyncio.timeout(DEADLINE):
            assert len(await anext(changes)) == 2, "a slow follower is given what is old"
        waiting = asyncio.ensure_future(anext(changes))
        await source.apply(load_text(RULE))
        await asyncio.sleep(0)
        assert not waiting.done(), "nothing changed, and yet a follower was woken"
        waiting.cancel()

    asyncio.run(run())


def test_age_is_the_order_in_which_objects_came(tmp_path: Path) -> None:
    async def run() -> None:
        source = opened(tmp_path)
        for name in ("zebra", "ant"):
            await source.apply(load_text(route(name=name)))
        await source.apply(load_text(route(name="zebra", timeout="9s")))
        names = [config.name for config in source.snapshot.virtual_services]
        assert names == ["zebra", "ant"], "a change made an object younger"
        assert [config.name for config in opened(tmp_path).snapshot.virtual_services] == names
        old = route(name="fossil").replace(
            "namespace: bookinfo", "namespace: bookinfo, creationTimestamp: 2001-01-01T00:00:00Z"
        )
        await source.apply(load_text(old))
        assert source.snapshot.virtual_services[0].name == "fossil"
        await source.delete(load_text(route(name="zebra")))
        await source.apply(load_text(route(name="zebra")))
        assert [config.name for config in source.snapshot.virtual_services] == ["fossil", "ant", "zebra"]

    asyncio.run(run())


def test_objects_that_somebody_keeps_in_one_file_are_not_taken_apart(tmp_path: Path) -> None:
    async def run() -> None:
        (tmp_path / "mine.yaml").write_text(RULE + "---" + route("v1"))
        source = opened(tmp_path)
        for act in (source.apply, source.delete):
            with pytest.raises(InvalidManifests) as refusal:
                await act(load_text(route("v1", timeout="3s")))
            assert "together with other objects" in str(refusal.value)
        (tmp_path / "alone.yaml").write_text(route(name="ratings"))
        await source.apply(load_text(route(name="ratings", timeout="3s")))
        assert "timeout: 3s" in (tmp_path / "alone.yaml").read_text()

    asyncio.run(run())


def test_a_change_that_a_crash_interrupted_is_finished(tmp_path: Path) -> None:
    """What a crash between two renames leaves: the journal, and only some of the files."""

    async def run() -> None:
        source = opened(tmp_path)
        await source.apply(load_text(route(name="details")))
        journal = {
            "write": {
                "DestinationRule.bookinfo.reviews.yaml": RULE,
                "VirtualService.bookinfo.reviews.yaml": route("v1"),
            },
            "remove": ["VirtualService.bookinfo.details.yaml"],
        }
        (tmp_path / JOURNAL).write_text(json.dumps(journal))
        (tmp_path / "VirtualService.bookinfo.reviews.yaml").write_text(route("v1"))
        reopened = opened(tmp_path)
        assert reopened.status.ok
        assert sorted(reopened.snapshot.by_ref) == [
            "DestinationRule/bookinfo/reviews",
            "VirtualService/bookinfo/reviews",
        ]
        assert not (tmp_path / JOURNAL).exists()

    asyncio.run(run())


def test_the_longest_names_fit(tmp_path: Path) -> None:
    async def run() -> None:
        source = opened(tmp_path)
        long = "a" * 60 + "." + "b" * 60 + "." + "c" * 60 + "." + "d" * 60
        text = (
            RULE.replace("name: reviews,", f"name: {long}x,")
            + "---"
            + RULE.replace("name: reviews,", f"name: {long}y,")
        )
        await source.apply(load_text(text.replace("subsets: [{name: v1, labels: {version: v1}}]", "exportTo: ['*']")))
        assert len(source.snapshot) == 2
        assert all(len(os.fsencode(path.name)) <= 255 for path in tmp_path.iterdir())

    asyncio.run(run())


def test_the_digest_is_of_what_objects_say_and_of_their_order(tmp_path: Path) -> None:
    async def run() -> None:
        one, other = opened(tmp_path / "one"), opened(tmp_path / "other")
        await one.apply(load_text(route(name="a") + "---" + route(name="b")))
        for name in ("a", "b"):
            await other.apply(load_text(route(name=name)))
        assert one.snapshot.digest == other.snapshot.digest
        await other.delete(load_text(route(name="a")))
        await other.apply(load_text(route(name="a")))
        assert one.snapshot.digest != other.snapshot.digest, "the older wins, so order is part of the meaning"
        await other.delete(load_text(route(name="b")))
        await other.apply(load_text(route(name="b")))
        assert one.snapshot.digest == other.snapshot.digest

    asyncio.run(run())
