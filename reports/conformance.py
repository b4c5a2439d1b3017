"""The conformance part as a document of Gateway API's `ConformanceReport` kind, for the tools that read those.

Statistics are counted from the checks that ran, never from what was declared; a check that could not be carried out
(`error`) counts as failed. `result` is `failure` with any failed check, `partial` with any skipped one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from reports.model import CheckResult, ConformanceResult, RunResult

_CORE = "core"


def conformance_report(result: RunResult) -> dict[str, Any]:
    """Raises `ValueError` when the run has no conformance part."""
    if result.conformance is None:
        raise ValueError(f"run {result.run_id} has no conformance part")
    mesh = result.mesh
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "ConformanceReport",
        "date": result.finished or result.started,
        "gatewayAPIVersion": mesh.get("gateway_api_version", "none"),
        "gatewayAPIChannel": mesh.get("gateway_api_channel", "none"),
        "mode": "default",
        "implementation": {
            "organization": mesh.get("organization") or mesh.get("organisation", ""),
            "project": mesh.get("name", ""),
            "url": mesh.get("url", ""),
            "version": mesh.get("version", ""),
            "contact": [contact for contact in mesh.get("contact", "").split(",") if contact],
        },
        "profiles": [_profile(result.conformance)],
        "succeededProvisionalTests": [],
    }


def conformance_yaml(result: RunResult) -> str:
    return str(yaml.safe_dump(conformance_report(result), sort_keys=False, allow_unicode=True))


def _profile(conformance: ConformanceResult) -> dict[str, Any]:
    core = [check for check in conformance.checks if check.profile == _CORE]
    extended = [check for check in conformance.checks if check.profile != _CORE]
    parts = [f"{name} {_words(checks)}" for name, checks in (("Core", core), ("Extended", extended)) if checks]
    return {
        "name": conformance.profile,
        "summary": " ".join(f"{part}." for part in parts) or "No checks ran.",
        "core": _part(core),
        "extended": _part(extended)
        | {
            "supportedFeatures": sorted(conformance.supported_features),
            "unsupportedFeatures": sorted(conformance.unsupported_features),
        },
    }


def _part(checks: Sequence[CheckResult]) -> dict[str, Any]:
    failed = [check.id for check in checks if check.outcome in ("failed", "error")]
    skipped = [check.id for check in checks if check.outcome == "skipped"]
    part: dict[str, Any] = {
        "result": "failure" if failed else "partial" if skipped or not checks else "success",
        "statistics": {
            "Passed": sum(check.outcome == "passed" for check in checks),
            "Skipped": len(skipped),
            "Failed": len(failed),
        },
    }
    if skipped:
        part["skippedTests"] = skipped
    if failed:
        part["failedTests"] = failed
    return part


def _words(checks: Sequence[CheckResult]) -> str:
    statistics = _part(checks)["statistics"]
    if statistics["Failed"]:
        return f"tests failed with {statistics['Failed']} test failures"
    if statistics["Skipped"]:
        return f"tests partially succeeded with {statistics['Skipped']} test skips"
    return "tests succeeded"
