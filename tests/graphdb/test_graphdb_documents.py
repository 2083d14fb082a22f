"""Every example in docs/cypher.md runs on a real model, and says what other commands say of the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli

import qgraph
from qgraph.graphdb.property_graph import NODES, RELATIONSHIPS

DOCUMENT = (Path(qgraph.__file__).parents[1] / "docs" / "cypher.md").read_text()
EXAMPLES = re.findall(r"```cypher\n(.*?)```", DOCUMENT, re.DOTALL)
ENDS = {"a": "nearest_interp_v2_3.tmp_0", "b": "p2o.Add.277"}


@pytest.fixture
def run(calibrated: Path) -> Any:
    with qgraph.open(calibrated) as database:
        yield database.run("mse")


def example(words: str) -> str:
    (found,) = [text for text in EXAMPLES if words in text]
    return str(found)


def test_a_dozen_examples_run(run: Any) -> None:
    assert len(EXAMPLES) >= 12
    for text in EXAMPLES:
        given = {name: value for name, value in ENDS.items() if f"${name}" in text}
        assert run.query(text, given).columns


def test_the_document_names_every_label_and_property() -> None:
    for label, properties in [*NODES.items(), *((k, v[2]) for k, v in RELATIONSHIPS.items())]:
        (line,) = [line for line in DOCUMENT.splitlines() if line.startswith(f"| `{label}` |")]
        assert {name for name in properties if f"`{name}`" not in line} == set()


def test_the_dear_concat_inputs_are_those_of_show(run: Any) -> None:
    slots = run.table("slots")
    dear = {
        row["slot"]
        for row in slots
        if row["slot"].startswith("p2o.Concat.") and ":in:" in row["slot"] and (row["price_db"] or 0) > 1
    }
    assert set(run.query(example("s.op_type = 'Concat'")).column("s.name")) == dear


def test_the_shortest_chain_of_constraints_is_that_of_why(run: Any) -> None:
    found = run.query(example("TIED_TO* ALL SHORTEST"), ENDS)
    path = run.why(**ENDS)["path"]
    (slots,) = found.column("slots")
    assert len(slots) == len(path) + 1
    assert {slots[0], slots[-1]} == {path[0]["from"], path[-1]["to"]}


def test_counts_are_those_of_the_run(run: Any) -> None:
    shown = run.show()
    assert run.query("MATCH (g:SharedGroup) RETURN count(*) AS n").rows == ((shown["groups"],),)
    assert run.query("MATCH (s:Slot) WHERE s.state = 'FP32' RETURN count(*) AS n").rows == ((shown["states"]["FP32"],),)


def test_the_command_line_prints_a_table_and_takes_names_as_parameters(cli: Cli, calibrated: Path) -> None:
    text = "MATCH (t:Tensor {name: $t}) RETURN t.name AS tensor, t.state AS state"
    answer = cli("query", text, "--param", f"t={ENDS['a']}", "--run", "mse", "--json").json
    assert (answer["columns"], answer["rows"]) == (["tensor", "state"], [[ENDS["a"], "SLAVE"]])
    assert ENDS["a"] in cli("query", text, "--param", f"t={ENDS['a']}", "--run", "mse").stdout
