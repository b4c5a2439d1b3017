"""From the gates to one verdict and one sentence. Pure; nothing else in the project decides what a run's verdict is.

A run fails when any gate fails, is inconclusive when any gate could not be judged (or there is none), and passes
only when every gate passed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reports.model import Gate, Verdict

WORD = {Verdict.PASS: "Pass", Verdict.FAIL: "Fail", Verdict.INCONCLUSIVE: "Inconclusive"}
GLYPH = {Verdict.PASS: "✓", Verdict.FAIL: "✕", Verdict.INCONCLUSIVE: "?"}


def overall(gates: Sequence[Gate]) -> Verdict:
    for verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE):
        if any(gate.verdict is verdict for gate in gates):
            return verdict
    return Verdict.PASS if gates else Verdict.INCONCLUSIVE


def sentence(mesh: Mapping[str, str], gates: Sequence[Gate]) -> str:
    """The verdict as a stranger understands it. Starts with what was judged and says why, unless all is well."""
    name = mesh.get("name") or "The mesh"
    verdict = overall(gates)
    if not gates:
        return f"{name}: nothing was judged."
    if verdict is Verdict.PASS:
        what = "its gate" if len(gates) == 1 else f"all {len(gates)} gates"
        return f"{name} passes {what}: {_list([f'{_lower(gate.name)} {gate.value}' for gate in gates])}."
    culprits = [gate for gate in gates if gate.verdict is verdict]
    count = f"{len(culprits)} of {len(gates)} gates"
    head = f"{name} fails {count}" if verdict is Verdict.FAIL else f"{name} fails nothing, but {count} cannot be judged"
    if len(culprits) == 1:
        gate = culprits[0]
        return f"{head}: {_lower(gate.name)} is {gate.value}, limit {gate.limit}. {_end(gate.reason)}."
    return f"{head}: {_list([f'{_lower(gate.name)} ({gate.value})' for gate in culprits])}."


def _lower(name: str) -> str:
    """Lower-case the first letter of an ordinary word, not of `P99` or `TLS`."""
    return name if name[1:2].isupper() or name[1:2].isdigit() else name[:1].lower() + name[1:]


def _end(reason: str) -> str:
    reason = reason.partition("\n")[0].rstrip(".: ") or "no reason was given"
    return reason[:1].upper() + reason[1:]


def _list(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
