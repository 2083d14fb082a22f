"""Names come out of a table or a line as they are, whatever they contain."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qgraph.cli.comparing import show_diff
from qgraph.cli.output import note, write_json, write_line, write_table
from qgraph.hints import suggest

NAMES = {
    "c:smile:": "c:smile:",
    "[bold]b[/bold]": "[bold]b[/bold]",
    "ends\\": "ends\\",
    "two\nlines": r"two\nlines",
    "\x1b[31mred": r"\x1b[31mred",
    "tab\there": r"tab\there",
    "broken \udcff": r"broken \udcff",
    "größe 量": "größe 量",
}
"""Names, and how each is shown: only what does not print is escaped."""


@pytest.mark.parametrize(("name", "shown"), NAMES.items(), ids=ascii)
def test_a_name_is_shown_as_it_is_on_one_line(name: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_line(name)
    assert capsys.readouterr().out == f"{shown}\n"
    write_table(("tensor", "scale"), [(name, 0.5)])
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["tensor", "scale"]
    assert row.split("  ")[0].rstrip() == shown
    assert row.endswith("0.5")
    note(f"tensor {name}")
    assert capsys.readouterr().err == f"qgraph: tensor {shown}\n"


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_json_has_the_name_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_json({"tensor": name, "names": [name]})
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "tensor": name, "names": [name]}


def test_a_title_is_no_markup_either(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(("a",), [("b",)], title="[red]x[/red] :smile:")
    assert capsys.readouterr().out.splitlines()[0].rstrip() == "[red]x[/red] :smile:"


NO_DIFFERENCE: dict[str, Any] = {
    "a": "r1",
    "b": "r2",
    "settings": {},
    "groups": {"split": [], "merged": []},
    "scales": [],
    "states": [],
    "requantize": [],
    "provenance": {},
    "coverage": {"a": {}, "b": {}},
    "renamed": [],
    "added": [],
    "removed": [],
    "failed": [],
}


def test_a_tensor_that_only_got_another_offset_shows_both_offsets(capsys: pytest.CaptureFixture[str]) -> None:
    change = {"tensor": "t", "a": {"scale": 0.5, "offset": -3}, "b": {"scale": 0.5, "offset": 4}, "ratio": 1.0}
    show_diff({**NO_DIFFERENCE, "scales": [{**change, "damage_db": 0.0}]}, None, differs=True)
    header, row, told = capsys.readouterr().out.splitlines()
    assert "offset in r1  offset in r2" in header
    assert row.split() == ["t", "0.5", "0.5", "-3", "4", "1", "0.0"]
    assert told == "1 tensor has another scale or offset"


def test_a_diff_names_the_origins_whose_values_are_digests_and_shows_the_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    origins = {"model.graph": ("a" * 32, "b" * 32), "model.opset": (13, 17), "model.weights": ("c" * 32, "d" * 32)}
    changes = {name: {"a": a, "b": b} for name, (a, b) in origins.items()}
    settings = {"observer_digest": {"a": None, "b": "e" * 64}, "observer": {"a": "mse", "b": "x" * 64}}
    show_diff({**NO_DIFFERENCE, "provenance": changes, "settings": settings}, None, differs=True)
    assert capsys.readouterr().out.splitlines() == [
        "another origin: model.graph, model.weights, observer_digest; the values: qgraph show RUN --provenance",
        "model.opset: 13 → 17",
        f"observer: mse → {'x' * 64}",
    ]


def test_a_suggestion_names_the_database_only_where_it_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QGRAPH_DB", raising=False)
    assert suggest("share", "x", db="qgraph.db") == "qgraph share x"
    assert suggest("share", "x", db="my db") == "qgraph share x --db 'my db'"
    assert "secret" not in suggest("share", "x", db="postgresql://me:secret@host/name")
    monkeypatch.setenv("QGRAPH_DB", "my db")
    assert suggest("share", "x", db="my db") == "qgraph share x"
    assert suggest("share", "x", db="qgraph.db") == "qgraph share x --db qgraph.db"
