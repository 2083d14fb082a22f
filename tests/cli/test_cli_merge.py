"""Shards that were counted apart become the calibration that one machine would have made."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Cli
from test_cli_max_memory import statistics_of

import qgraph


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, ppocr_cls: Path, cls_photos: Path) -> Path:
    """A folder with three databases, each with one shard of three, the first with one of two as well."""
    folder = tmp_path_factory.mktemp("shards")
    for i in (1, 2, 3):
        with qgraph.open(folder / f"{i}.db") as database:
            database.calibrate(ppocr_cls, cls_photos, shard=f"{i}/3")
            if i == 1:
                database.calibrate(ppocr_cls, cls_photos, shard="1/2")
    return folder


def test_merged_shards_are_the_whole_bit_for_bit_and_are_reused(
    cli: Cli, shards: Path, ppocr_cls: Path, cls_photos: Path, tmp_path: Path
) -> None:
    with qgraph.open(tmp_path / "whole.db") as database:
        whole = database.calibrate(ppocr_cls, cls_photos)
    parts = [f"{shards / f'{i}.db'}:c1" for i in (3, 1, 2)]
    merged = cli("merge", *parts, "--db", tmp_path / "merged.db", "--json").json
    assert merged["status"] == "complete"
    assert merged["samples"] == whole.samples
    assert statistics_of(tmp_path / "merged.db") == statistics_of(tmp_path / "whole.db")
    assert cli("merge", *parts, "--db", tmp_path / "merged.db", "--json").json["status"] == "reused"
    with qgraph.open(tmp_path / "merged.db") as database:
        again = database.calibrate(ppocr_cls, cls_photos)
        assert (again.status, again.id, again.inferences) == ("reused", merged["calibration"], 0)
        scales = again.solve(target="tflite", observer="minmax").scales()["tensors"]
    with qgraph.open(tmp_path / "whole.db") as database:
        expected = database.calibration("c1").solve(target="tflite", observer="minmax")
        assert scales == expected.scales()["tensors"]


def test_python_merges_calibrations_of_several_databases(shards: Path, tmp_path: Path) -> None:
    with (
        qgraph.open(shards / "1.db") as first,
        qgraph.open(shards / "2.db") as second,
        qgraph.open(tmp_path / "q.db") as database,
    ):
        third = f"{shards / '3.db'}:c1"
        assert database.merge(first.calibration("c1"), second.calibration("c1"), third).status == "complete"


def test_different_data_is_merged_too_and_known_afterwards(ppocr_cls: Path, cls_photos: Path, tmp_path: Path) -> None:
    import numpy as np

    with np.load(cls_photos) as archive:
        (name,) = archive
        images = archive[name]
    with qgraph.open(tmp_path / "q.db") as database:
        parts = [database.calibrate(ppocr_cls, {name: some}) for some in (images[:2], images[2:])]
        merged = database.merge(*parts)
        again = database.calibrate(ppocr_cls, {name: images})
        assert (again.status, again.id, again.samples) == ("reused", merged.id, len(images))


def refused(cli: Cli, shards: Path, *parts: str) -> str:
    told = cli("merge", *(f"{shards}/{part}" for part in parts), "--db", "merged.db", "--json")
    assert told.code == 2
    assert told.stderr.count("\n") == 1
    return told.stderr


def test_what_cannot_be_one_calibration_is_refused_with_the_reason(cli: Cli, shards: Path) -> None:
    assert "3/3" in refused(cli, shards, "1.db:c1", "2.db:c1")
    assert "given twice" in refused(cli, shards, "1.db:c1", "1.db:c1", "2.db:c1")
    assert "different splits" in refused(cli, shards, "1.db:c2", "2.db:c1", "3.db:c1")
    assert "nothing to merge" in refused(cli, shards, "1.db:c1")


def test_a_database_alone_is_answered_with_how_to_name_its_calibration(cli: Cli, shards: Path) -> None:
    told = cli("merge", shards / "1.db", f"{shards / '2.db'}:c1")
    assert told.code == 2
    assert f"name one, as {shards / '1.db'}:c1" in told.stderr


def test_samples_in_two_parts_and_other_models_are_refused(
    cli: Cli,
    shards: Path,
    ppocr_cls: Path,
    ppocr4_det: Path,
    cls_photos: Path,
    ocr_photos: Path,
    tmp_path: Path,
) -> None:
    with qgraph.open(tmp_path / "q.db") as database:
        database.calibrate(ppocr_cls, cls_photos, steps=2)
        database.calibrate(ppocr_cls, cls_photos, steps=1)
        database.calibrate(ppocr4_det, ocr_photos, steps=1)
    assert "two parts have counted" in cli("merge", "c1", "c2", "--db", tmp_path / "q.db").stderr
    assert "differ in their model" in cli("merge", "c1", "c3", "--db", tmp_path / "q.db").stderr
    mixed = cli("merge", "c1", f"{shards / '1.db'}:c1", "--db", tmp_path / "q.db").stderr
    assert "a shard and a whole calibration" in mixed


def test_a_shard_is_not_solved_by_mistake(cli: Cli, shards: Path, ppocr_cls: Path, cls_photos: Path) -> None:
    told = cli("solve", "c1", "--target", "tflite", "--db", shards / "1.db")
    assert told.code == 2
    assert "shard" in told.stderr
    wished = ["calibrate", ppocr_cls, "--data", cls_photos, "--shard", "1/2", "--target", "tflite"]
    assert cli(*wished).code == 2


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0", "1/2/3"])
def test_a_shard_that_cannot_be_is_one_line(cli: Cli, ppocr_cls: Path, cls_photos: Path, shard: str) -> None:
    told = cli("calibrate", ppocr_cls, "--data", cls_photos, "--shard", shard)
    assert told.code == 2
    assert told.stderr.count("\n") == 1
