"""YAML text to documents that remember their lines, and hostile text to errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifests import InvalidManifests, load_file, load_paths, load_text


def refused(text: str) -> tuple[int, str]:
    with pytest.raises(InvalidManifests) as refusal:
        load_text(text)
    return refusal.value.errors[0].line, refusal.value.errors[0].message


def test_lines_of_fields_across_documents() -> None:
    text = "# first\na: 1\n---\nkind: A\nspec:\n  list:\n  - x: 1\n  - x: 2\n    y: 3\n"
    first, second = load_text(text)
    assert (first.line, first.line_of(("a",))) == (2, 2)
    assert second.line_of(("spec", "list", 1, "y")) == 9
    assert second.line_of(("spec", "list", 1, "gone", "deeper")) == 8, "the nearest parent that was written"


def test_a_list_is_its_items() -> None:
    text = "apiVersion: v1\nkind: List\nitems:\n- {kind: A, metadata: {name: a}}\n- kind: B\n  metadata: {name: b}\n"
    documents = load_text(text)
    assert [(d.kind, d.name, d.line) for d in documents] == [("A", "a", 4), ("B", "b", 5)]
    assert documents[1].line_of(("metadata", "name")) == 6


def test_scalars_are_what_kubernetes_reads() -> None:
    data = load_text("a: 2026-01-01T00:00:00Z\nb: 0x10\nc: 'yes'\nd:\n")[0].data
    assert data == {"a": "2026-01-01T00:00:00Z", "b": 16, "c": "yes", "d": None}


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("a: 1\nb: [1\nc: 2\n", 3, "not valid YAML"),
        ("a: 1\nb: \x01", 2, "not valid YAML"),
        ("a: 1\na: 2\n", 2, "is written twice (first on line 1)"),
        ("a: 1\n---\n- b\n", 3, "not an object"),
        ("a: !!python/object/apply:os.system [id]\n", 1, "has the tag tag:yaml.org,2002:python/object/apply:os.system"),
        ("a: !!python/name:os.system x\n", 1, "could not determine a constructor"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n", 3, "has a key that is not a string"),
        ("a: &a\n- *a\n", 1, "is nested or repeated without end"),
        ("[" * 300_000, 1, "is nested too deep"),
        ("a: " + "{b: " * 80 + "1" + "}" * 80, 1, "is nested too deep"),
        ("a: " + "x" * (9 << 20), 0, "is too large"),
    ],
    ids=["flow", "control", "twice", "list", "tag", "name", "merge", "cycle", "abyss", "deep", "large"],
)
def test_hostile_text_is_an_error(text: str, line: int, part: str) -> None:
    found_line, message = refused(text)
    assert found_line == line
    assert part in message


def test_an_alias_bomb_ends() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "is nested or repeated without end" in refused("\n".join(lines))[1]


def test_errors_of_all_files_come_together(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: [")
    (tmp_path / "b.yml").write_text("b: 1\nb: 2\n")
    (tmp_path / "c.json").write_text('{"kind": "C"}')
    (tmp_path / "d.txt").write_text("not read")
    with pytest.raises(InvalidManifests) as refusal:
        load_paths([tmp_path])
    assert [Path(error.file).name for error in refusal.value.errors] == ["a.yaml", "b.yml"]
    assert load_file(tmp_path / "c.json")[0].kind == "C"
    with pytest.raises(InvalidManifests, match=r"cannot be read: No such file"):
        load_file(tmp_path / "none.yaml")
