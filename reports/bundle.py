"""One run, one folder: `out/<run-id>/` with `results.json`, samples, JUnit, conformance YAML, logs, `report.html`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from reports.model import RunResult

RESULTS = "results.json"


class Bundle(msgspec.Struct, frozen=True):
    """A run's folder. Files are written whole: to a temporary name, then renamed."""

    root: Path

    @classmethod
    def create(cls, out: Path, run_id: str) -> Bundle:
        root = out / run_id
        root.mkdir(parents=True, exist_ok=False)
        return cls(root)

    def path(self, *parts: str) -> Path:
        """A path within the bundle; its parent folder exists."""
        path = self.root.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.path(name)
        temporary = path.with_name(path.name + ".part")
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
        return path

    def save(self, result: RunResult) -> Path:
        return self.write(RESULTS, msgspec.json.format(msgspec.json.encode(result), indent=2))

    def load(self) -> RunResult:
        return msgspec.json.decode((self.root / RESULTS).read_bytes(), type=RunResult)
