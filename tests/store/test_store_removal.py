"""Runs, calibrations and models go only when nothing that stays rests on them, and copies are equal."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from postgresql_server import Server
from store_examples import exact, small_run, small_structure

from qgraph.calib.evidence import BiasMagnitude, WeightSolution
from qgraph.errors import BusyError, NotFoundError, StoreError, UsageError
from qgraph.store import integrity, removal, tables
from qgraph.store.calibrations import begin, list_calibrations, load_counted, load_statistics
from qgraph.store.copying import copy_run
from qgraph.store.database import Database, open_database
from qgraph.store.evidence import Served, load_evidence, load_served, save_evidence, save_served
from qgraph.store.models import derive, find_model, list_models, load_model, load_structure, save_model
from qgraph.store.records import CalibrationIdentity
from qgraph.store.removal import Removed, collect_garbage, remove
from qgraph.store.runs import list_runs, load_run, resolve_run, save_run
from qgraph.store.sensitivities import Sensitivity, load_sensitivities, save_sensitivities
from qgraph.store.sizes import measure
from qgraph.tqc import Scheme

IDENTITY = CalibrationIdentity("f1", data="d")
BLOBS = {"mid": b"m" * 100, "side": b"s"}


def fill(database: Database) -> None:
    """m1 with c1 (complete) and its runs r1 `first` and r2; m2, made from m1, with c2 (partial); r3 without data."""
    scheme = Scheme(8, signed=True, symmetric=True, quant_min=-127, quant_max=127, axis=0)
    with database.transaction() as connection:
        save_model(connection, small_structure(), "small.onnx")
        save_model(connection, small_structure("f2"), None)
        derive(connection, "m2", "m1", {"method": "bias", "passes": (1, 2)})
        weights = (WeightSolution("weight", scheme, "mse", (0.5, 1.5), float("-inf")),)
        save_evidence(connection, "m1", weights, (BiasMagnitude("bias", (1.0,)),), {"bias": b"blob"})
        save_served(connection, "m1", Served("packs", {"mid": (1,)}))
    with begin(database, IDENTITY, {"image": (1, 3, 4)}) as claim:
        claim.complete(BLOBS, {"a": 2, "b": 1}, samples=3, inferences=3)
    with begin(database, replace(IDENTITY, model="f2")) as claim:
        claim.checkpoint({}, {"a": 1}, samples=1, inferences=1)
    with database.transaction() as connection:
        save_run(connection, "m1", "c1", small_run(), name="first")
        save_run(connection, "m1", "c1", small_run("kl"))
        save_run(connection, "m1", None, small_run(None))
        save_sensitivities(connection, "r1", "data", [MEASURED])


MEASURED = Sensitivity("tensor", "mid", "sharing", "joined", float("-inf"))


@pytest.fixture
def database(location: str) -> Iterator[Database]:
    opened = open_database(location, create=False)
    fill(opened)
    yield opened
    opened.close()


def left(database: Database) -> list[str]:
    with database.reading() as connection:
        names = [run.id for run in list_runs(connection)]
        names += [calibration.id for calibration in list_calibrations(connection)]
        return names + [model.id for model in list_models(connection)]


def test_a_run_goes_with_all_of_its_rows_and_nothing_else(database: Database) -> None:
    before = measure(database).rows
    assert remove(database, ["first", "r2"]) == Removed(runs=("r1", "r2"))
    assert left(database) == ["r3", "c1", "c2", "m1", "m2"]
    after = measure(database).rows
    assert after["sensitivities"] == 0
    assert {name for name in before if before[name] != after[name]} == {
        "edges", "events", "requantized", "run_groups", "run_rules", "run_schemes", "runs", "sensitivities", "tqcs",
    }  # fmt: skip
    assert integrity.check(database) == []


def test_what_something_rests_on_stays_unless_all_of_it_goes(database: Database) -> None:
    with pytest.raises(UsageError, match=r"something else was made from this: c1 \(r1, r2\); .*--with-dependents"):
        remove(database, ["c1"])
    with pytest.raises(UsageError, match=r"m1 \(c1, r1, r2, r3\)"):
        remove(database, ["m1"])
    assert len(left(database)) == 7
    assert remove(database, ["c1", "r2", "r1"]) == Removed(runs=("r1", "r2"), calibrations=("c1",))
    assert remove(database, ["m1"], with_dependents=True) == Removed(runs=("r3",), models=("m1",))
    assert left(database) == ["c2", "m2"]
    with database.reading() as connection:
        assert load_model(connection, "m2").parent is None
    assert integrity.check(database) == []


def test_all_or_nothing_is_removed(database: Database) -> None:
    with pytest.raises(NotFoundError, match="unknown run: frist"):
        remove(database, ["r1", "frist"])
    with pytest.raises(NotFoundError, match="unknown calibration: c9"):
        remove(database, ["r1", "c9"])
    assert len(left(database)) == 7


def test_a_calibration_that_is_being_counted_stays(database: Database) -> None:
    with begin(database, replace(IDENTITY, model="f2")), pytest.raises(BusyError, match="c2"):
        remove(database, ["m2"], with_dependents=True)
    remove(database, ["c2"])


def test_ids_are_not_given_again(database: Database) -> None:
    remove(database, ["m1", "m2"], with_dependents=True)
    with database.transaction() as connection:
        assert save_model(connection, small_structure("f3"), None) == "m3"


def test_only_what_nothing_needs_is_garbage(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(database, replace(IDENTITY, steps=5)).release()
    assert collect_garbage(database, dry_run=True) == Removed(calibrations=("c3",))
    with begin(database, replace(IDENTITY, steps=5)):
        assert collect_garbage(database, dry_run=True) == Removed()
    remove(database, ["c2"])
    assert collect_garbage(database) == Removed(calibrations=("c3",))
    assert left(database) == ["r1", "r2", "r3", "c1", "m1", "m2"]
    monkeypatch.setattr(removal, "SETTLED_SECONDS", 0.0)
    assert collect_garbage(database) == Removed(models=("m2",))
    assert collect_garbage(database) == Removed()


def test_the_model_that_a_needed_one_was_made_from_is_needed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "SETTLED_SECONDS", 0.0)
    remove(database, ["c1", "r3"], with_dependents=True)
    assert collect_garbage(database) == Removed()
    remove(database, ["c2"])
    assert collect_garbage(database) == Removed(models=("m1", "m2"))
    assert left(database) == []


def test_collecting_garbage_makes_the_file_smaller(tmp_path: Path) -> None:
    database = open_database(tmp_path / "q.db", create=True)
    with database.transaction() as connection:
        save_model(connection, small_structure(), None)
    with begin(database, IDENTITY) as claim:
        claim.checkpoint({"mid": bytes(3_000_000)}, {"a": 1}, samples=1, inferences=1)
    remove(database, ["c1"])
    before = measure(database)
    assert before.free is not None
    assert before.free > 2_900_000
    collect_garbage(database)
    after = measure(database)
    assert after.size < before.size - 2_900_000
    assert after.free == 0
    database.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def other(request: pytest.FixtureRequest, empty_file: Path, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        place = str(shutil.copy(empty_file, tmp_path / "other.db"))
    else:
        server: Server = request.getfixturevalue("postgresql")
        place = server.new_database(request.getfixturevalue("empty_template"))
    opened = open_database(place, create=False)
    with opened.transaction() as connection:  # so that numbers differ
        save_model(connection, small_structure("another"), None)
        save_run(connection, "m1", None, small_run(None))
    yield opened
    opened.close()


def test_a_copied_run_is_equal_and_rests_on_equal_things(database: Database, other: Database) -> None:
    copied = copy_run(database, "first", other)
    assert (copied.run, copied.model, copied.calibration) == ("r2", "m2", "c1")
    assert integrity.check(other) == []
    with database.reading() as here, other.reading() as there:
        assert exact(load_run(there, "first")) == exact(load_run(here, "first"))
        assert load_structure(there, "m2") == load_structure(here, "m1")
        assert load_evidence(there, "m2") == load_evidence(here, "m1")
        assert load_served(there, "f1") == load_served(here, "f1")
        assert load_statistics(there, "c1") == load_statistics(here, "c1") == BLOBS
        assert load_counted(there, "c1") == {"a": 2, "b": 1}
        assert load_sensitivities(there, "first", "data") == (MEASURED,)
        assert list_calibrations(there) == [replace(list_calibrations(here)[0], model="m2")]
        old, new = resolve_run(here, "first"), resolve_run(there, "first")
        assert new == replace(old, id="r2", model="m2")
    with begin(other, IDENTITY) as claim:
        assert claim.outcome == "complete"


def test_copying_again_copies_nothing(database: Database, other: Database) -> None:
    first = copy_run(database, "first", other)
    rows = measure(other).rows
    assert copy_run(database, "r1", other) == first
    assert measure(other).rows == rows
    assert copy_run(other, "first", database).run == "r1"
    assert copy_run(database, "r1", database).run == "r1"


def test_a_name_that_is_taken_there_is_refused_and_nothing_is_copied(database: Database, other: Database) -> None:
    with other.transaction() as connection:
        save_run(connection, "m1", None, small_run(None), name="first")
    rows = measure(other).rows
    with pytest.raises(UsageError, match="the name is already another run's"):
        copy_run(database, "first", other)
    assert measure(other).rows == rows
    assert copy_run(database, "first", other, name="second").run == "r2"


def test_an_unfinished_calibration_there_gives_way_to_the_finished_one(database: Database, other: Database) -> None:
    with other.transaction() as connection:
        save_model(connection, small_structure(), None)
    with begin(other, IDENTITY) as claim:
        claim.checkpoint({"mid": b"less"}, {"b": 1}, samples=1, inferences=1)
        with pytest.raises(StoreError, match="in another state"):
            copy_run(database, "first", other)
    copied = copy_run(database, "first", other)
    assert copied.calibration == "c1"
    with other.reading() as there:
        assert load_statistics(there, "c1") == BLOBS
        assert load_counted(there, "c1") == {"a": 2, "b": 1}


def test_a_finished_calibration_there_does_not_change(database: Database, other: Database) -> None:
    with other.transaction() as connection:
        save_model(connection, small_structure(), None)
    with begin(other, IDENTITY) as claim:
        claim.complete({"mid": b"else"}, {"b": 1}, samples=1, inferences=1)
    with pytest.raises(StoreError, match="the same calibration is there in another state: c1"):
        copy_run(database, "first", other)


def test_a_run_of_a_calibration_that_has_grown_is_not_copied(database: Database, other: Database) -> None:
    with database.transaction() as connection:
        save_run(connection, "m2", "c2", small_run())
    with begin(database, replace(IDENTITY, model="f2")) as claim:
        claim.checkpoint({}, {"a": 2}, samples=2, inferences=2)
    with pytest.raises(StoreError, match=r"counted more since the run was solved: r4 \(1 samples, now 2\)"):
        copy_run(database, "r4", other)


def test_a_derived_model_finds_its_parent_there(database: Database, other: Database) -> None:
    with database.transaction() as connection:
        save_run(connection, "m2", "c2", small_run(), name="derived")
    copy_run(database, "first", other)
    copy_run(database, "derived", other)
    with other.reading() as there:
        record = load_model(there, find_model(there, "f2") or "")
        assert record.parent == find_model(there, "f1")
        assert record.derivation == {"method": "bias", "passes": (1, 2)}


def test_a_model_cannot_be_made_from_itself(database: Database) -> None:
    for child, parent in (("m1", "m1"), ("m1", "m2")):
        with pytest.raises(UsageError, match="made from itself"), database.transaction() as connection:
            derive(connection, child, parent, {})


def test_sensitivities_are_kept_by_samples_and_replaced(database: Database) -> None:
    again = replace(MEASURED, noise_db=-3.0)
    whole = Sensitivity("group", "g-shared", "all", "", float("nan"))
    with database.transaction() as connection:
        save_sensitivities(connection, "r1", "data", [again, whole])
        save_sensitivities(connection, "r1", "other samples", [MEASURED])
    with database.reading() as connection:
        found = load_sensitivities(connection, "r1", "data")
        assert exact(found) == exact((whole, again))
        assert load_sensitivities(connection, "first", "other samples") == (MEASURED,)
        assert load_sensitivities(connection, "r2", "data") == ()


def test_states_and_ranges_are_held_by_the_database(database: Database) -> None:
    for change in (
        "tqcs SET scale = 0 WHERE scale IS NOT NULL",
        'tqcs SET "offset" = NULL WHERE scale IS NOT NULL',
        "tqcs SET scales = '[1]' WHERE scale IS NOT NULL",
        "run_schemes SET bits = 0",
        "run_schemes SET quant_max = quant_min",
        "weight_solutions SET bits = 65",
        "calibrations SET status = 'done'",
        "calibrations SET samples = -1",
        "calibrations SET steps = 0",
        "calibration_samples SET multiplicity = 0",
        "sensitivities SET kind = 'layer'",
        "sensitivities SET part = 'luck'",
        "slots SET side = 'left'",
        "edges SET strength = 'weak'",
        "models SET parent_id = 99",
        "runs SET calibration_id = 99",
    ):
        with pytest.raises(StoreError), database.transaction() as connection:
            connection.execute(sa.text(f"UPDATE {change}"))


def test_a_model_goes_with_its_calibrations_and_runs_in_one_statement(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(tables.models.delete())
    assert left(database) == []
