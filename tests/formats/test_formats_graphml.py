"""A run's graph as GraphML, read back with networkx."""

from __future__ import annotations

import math
from pathlib import Path

import networkx as nx
import pytest

from qgraph.errors import ExportError
from qgraph.formats.graphml import write_graphml
from qgraph.graphdb.property_graph import NODES, RELATIONSHIPS, PropertyGraph, Relationship

NAMES = ["plain", '<a href="x">&amp;\'', "two\nlines\r\t", "\x00\x1b[31m", "é\u2028\U0001f600", "\ud800"]


def graph() -> PropertyGraph:
    nodes = dict.fromkeys(NODES, ()) | {"Op": tuple((name, "Conv", "ai.onnx", None) for name in NAMES)}
    width = len(NODES["Tensor"])
    tensors = tuple((f"t{i}", *[None] * (width - 3), noise, 0.5) for i, noise in enumerate([-1.5, -math.inf, None]))
    ties = dict.fromkeys(RELATIONSHIPS, ()) | {"FEEDS": (Relationship(0, 1, (0,)), Relationship(0, 1, (1,)))}
    return PropertyGraph({**nodes, "Tensor": tensors}, ties)


def test_nodes_edges_and_properties_come_back(tmp_path: Path) -> None:
    write_graphml(graph(), tmp_path / "g.graphml")
    found = nx.read_graphml(tmp_path / "g.graphml")
    assert found.is_directed()
    assert found.nodes["Tensor0"] == {"label": "Tensor", "name": "t0", "noise_db": -1.5, "price_db": 0.5}
    assert found.nodes["Tensor1"]["noise_db"] == -math.inf
    edges = sorted(data["position"] for _, _, data in found.edges(data=True))
    assert edges == [0, 1]  # Mul(a, a) reads one tensor twice


def test_names_come_back_and_what_xml_cannot_say_is_shown_as_an_escape(tmp_path: Path) -> None:
    write_graphml(graph(), tmp_path / "g.graphml")
    found = nx.read_graphml(tmp_path / "g.graphml")
    names = [found.nodes[f"Op{i}"]["name"] for i in range(len(NAMES))]
    assert names == [*NAMES[:3], "\\x00\\x1b[31m", NAMES[4], "\\ud800"]


def test_a_place_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExportError):
        write_graphml(graph(), tmp_path / "no" / "g.graphml")
    assert list(tmp_path.iterdir()) == []
