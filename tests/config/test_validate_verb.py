"""`meshproof validate`, as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

SERVICE = """
apiVersion: v1
kind: Namespace
metadata: {name: bookinfo}
---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: bookinfo}
spec: {ports: [{port: 9080, name: http}], selector: {app: reviews}}
"""
ROUTE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: bookinfo}
spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews}}]}]}
"""


def meshproof(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "meshproof", "validate", *arguments]
    return subprocess.run(argv, input=text, capture_output=True, text=True, timeout=60, check=False)


def test_valid() -> None:
    done = meshproof("-", text=SERVICE + "---" + ROUTE)
    assert (done.returncode, done.stdout) == (0, "")
    assert "3 objects: valid" in done.stderr


def test_every_error_of_every_file_and_kind(tmp_path: Path) -> None:
    pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: 5}]}\n"
    (tmp_path / "core.yaml").write_text(SERVICE.replace("9080", "99999") + "---\n" + pod)
    (tmp_path / "mesh.yaml").write_text(ROUTE.replace("hosts", "host"))
    (tmp_path / "other.yaml").write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n")
    (tmp_path / "yaml.yaml").write_text("a: [\n")
    done = meshproof(str(tmp_path))
    assert done.returncode == 1
    fields = {tuple(line.removeprefix(f"{tmp_path}/").split(": ")[:2]) for line in done.stdout.splitlines()}
    assert fields >= {
        ("core.yaml:9", "spec.ports[0].port"),
        ("core.yaml:14", "spec.containers[0].image"),
        ("mesh.yaml:5", "spec.host"),
        ("other.yaml:1", "spec"),
    }
    assert any(place.startswith("yaml.yaml:") for place, _ in fields)


def test_json(tmp_path: Path) -> None:
    file = HERE / "broken" / "duration.yaml"
    done = meshproof("--json", str(file))
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["valid"] is False
    first = report["errors"][0]
    assert (first["file"], first["line"], first["field"], first["value"]) == (str(file), 7, "spec.http[0].timeout", "5")


def test_references_out_of_the_files_are_warnings_unless_strict() -> None:
    text = ROUTE.replace("host: reviews}", "host: reviews, subset: v1}")
    lax = meshproof("-", text=text)
    assert lax.returncode == 0
    assert [line.partition(":")[0] for line in lax.stdout.splitlines()] == ["warning", "warning"]
    strict = meshproof("--strict-references", "-", text=text)
    assert strict.returncode == 1
    assert "is no Service and no ServiceEntry" in strict.stdout
    assert "is defined by no DestinationRule" in strict.stdout


def test_usage() -> None:
    assert meshproof().returncode == 2
    done = meshproof("no-such-file.yaml")
    assert done.returncode == 2
    assert "no-such-file.yaml: there is no such file or folder" in done.stderr
