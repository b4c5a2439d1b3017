"""A bundle's `results.json` to everything people and machines read: `report.html`, `junit.xml`, `conformance.yaml`."""

from __future__ import annotations

from reports.bundle import Bundle
from reports.conformance import conformance_yaml
from reports.html import html
from reports.junit import junit

HTML = "report.html"
JUNIT = "junit.xml"
CONFORMANCE = "conformance.yaml"


def render(bundle: Bundle) -> None:
    """From `results.json` alone, so a report can be made again at any time, on any machine. Parts that the run did
    not have are left out; `conformance.yaml` is not written without conformance checks."""
    result = bundle.load()
    bundle.write(HTML, html(result))
    bundle.write(JUNIT, junit(result))
    if result.conformance is not None:
        bundle.write(CONFORMANCE, conformance_yaml(result))
