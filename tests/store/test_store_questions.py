"""Views from plain sqlite3, tables, provenance, and a diff that fails: on a real model."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import networkx as nx
import pytest
from conftest import Cli

import qgraph
from qgraph.errors import NotFoundError
from qgraph.store.views import VIEWS

DOCS = Path(qgraph.__file__).parents[1] / "docs"
DOCUMENT = (DOCS / "sql-views.md").read_text()


def test_the_document_has_every_view_with_all_its_columns() -> None:
    found = dict(re.findall(r"^\| `(\w+)` \|.*\| `([^`]+)` \|$", DOCUMENT, re.MULTILINE))
    assert found == {view.name: " ".join(column.name for column in view.c) for view in VIEWS}


def test_every_sql_example_runs_in_plain_sqlite_and_says_what_the_commands_say(cli: Cli, calibrated: Path) -> None:
    assert cli("solve", "c1", "--target", "tflite", "--observer", "minmax", "--name", "minmax").code == 0
    examples = re.findall(r"```sql\n(.*?)```", DOCUMENT, re.DOTALL)
    with closing(sqlite3.connect(f"file:{calibrated}?mode=ro", uri=True)) as connection:
        answers = [connection.execute(text).fetchall() for text in examples]
    assert len(answers) >= 7
    assert all(answers)
    worst = cli("diff", "mse", "minmax", "--top", "1", "--json").json["scales"][0]
    assert answers[-1][0][0] == worst["tensor"]
    assert answers[-1][0][3] == pytest.approx(worst["damage_db"])


def test_tables_are_frozen_and_become_data_frames(calibrated: Path) -> None:
    with qgraph.open(calibrated) as database:
        run = database.run("mse")
        scales = run.table("scales")
        assert len(scales) == len(run.scales()["tensors"]) == len(run.table("tensor_scales"))
        assert scales.to_pandas()["tensor"].tolist() == list(scales.column("tensor"))
        assert scales.to_polars()["tensor"].to_list() == list(scales.column("tensor"))
        assert any(isinstance(row["scales"], tuple) for row in scales)
        with pytest.raises(NotFoundError, match="did you mean scales"):
            run.table("scale")


def test_provenance_tells_the_lineage_back_to_the_file(cli: Cli, calibrated: Path, ppocr4_det: Path) -> None:
    lineage = cli("show", "mse", "--provenance", "--json").json["lineage"]
    assert lineage["model"]["path"] == str(ppocr4_det)
    assert (lineage["calibration"]["samples"], lineage["calibration"]["distinct_samples"]) == (32, 32)
    assert lineage["parents"] == []
    assert str(ppocr4_det) in cli("show", "mse", "--provenance").stdout
    assert cli("show", "mse", "--provenance", "--tensor", "x").code == 2


def test_other_data_is_named_as_the_field_that_differs(
    cli: Cli, calibrated: Path, ppocr4_det: Path, ocr_photos: Path
) -> None:
    fewer = ["calibrate", ppocr4_det, "--data", ocr_photos, "--steps", 2, "--target", "tflite"]
    assert cli(*fewer, "--name", "fewer").code == 0
    found = cli("diff", "mse", "fewer", "--json").json
    assert {"calibration.steps", "calibration.sample_set", "run.samples"} <= set(found["provenance"])
    assert not {name for name in found["provenance"] if name.startswith("model.")}
    assert cli("diff", "mse", "fewer", "--fail-on", "damage_db>100").code == 0
    failed = cli("diff", "mse", "fewer", "--fail-on", "scales>0", "-o", "d.svg")
    assert (failed.code, "failed: scales>0" in failed.stdout) == (1, True)
    assert (calibrated.parent / "d.svg").read_text().lstrip().startswith("<?xml")


def test_the_graph_of_a_run_is_exported(cli: Cli, calibrated: Path) -> None:
    assert cli("export", "mse", "--format", "graphml", "-o", "run.graphml").code == 0
    graph = nx.read_graphml(calibrated.parent / "run.graphml")
    labels = [node["label"] for _, node in graph.nodes(data=True)]
    assert labels.count("SharedGroup") == cli("show", "mse", "--json").json["groups"]
