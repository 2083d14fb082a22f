import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from store_examples import small_run, small_structure

from qgraph.errors import NotFoundError, StatisticsError, StoreError, UsageError
from qgraph.store import integrity, lookup, queries, tables
from qgraph.store.calibrations import begin
from qgraph.store.database import Database, open_database
from qgraph.store.models import load_model, save_model
from qgraph.store.records import CalibrationIdentity
from qgraph.store.runs import check_name_is_usable, find_run, list_runs, load_run, resolve_run, save_run
from qgraph.store.sizes import measure

MEMBERS = ["conv:out:0", "graph:in:side", "graph:out:joined", "join:in:0", "join:in:2", "join:out:0"]


@pytest.fixture
def database(location: str) -> Iterator[Database]:
    """A database with the small model, a calibration of it, and the run r1."""
    opened = open_database(location, create=False)
    fill(opened)
    yield opened
    opened.close()


def fill(database: Database) -> None:
    """Store the small model, a calibration of it, and the run r1."""
    with database.transaction() as connection:
        save_model(connection, small_structure(), None)
    with begin(database, CalibrationIdentity("f1")) as claim:
        claim.checkpoint({"mid": b"blob"}, {"a": 1}, samples=1, inferences=1)
    with database.transaction() as connection:
        save_run(connection, "m1", "c1", small_run(), name="first")


def test_the_same_settings_on_the_same_statistics_are_the_same_run(database: Database) -> None:
    with database.transaction() as connection:
        assert save_run(connection, "m1", "c1", small_run()) == "r1"
        assert save_run(connection, "m1", "c1", small_run(), name="first") == "r1"
        assert save_run(connection, "m1", "c1", small_run(target="tensorrt")) == "r2"
        assert save_run(connection, "m1", None, small_run(observer=None)) == "r3"
        assert save_run(connection, "m1", None, small_run(observer=None)) == "r3"
        found = find_run(connection, "m1", "c1", small_run().settings)
        assert found is not None
        assert (found.id, found.samples) == ("r1", 1)
        assert find_run(connection, "m1", None, small_run().settings) is None


def test_a_partial_calibration_that_grew_gives_another_run(database: Database) -> None:
    with begin(database, CalibrationIdentity("f1")) as claim:
        claim.checkpoint({}, {"b": 1}, samples=2, inferences=2)
    with database.transaction() as connection:
        assert find_run(connection, "m1", "c1", small_run().settings) is None
        assert save_run(connection, "m1", "c1", small_run()) == "r2"


def test_every_name_that_was_given_stays_good(database: Database) -> None:
    with database.transaction() as connection:
        assert save_run(connection, "m1", "c1", small_run(), name="again") == "r2"
        assert save_run(connection, "m1", "c1", small_run(target="tensorrt")) == "r3"
        assert save_run(connection, "m1", "c1", small_run(target="tensorrt"), name="named later") == "r3"
    with database.reading() as connection:
        names = [(run.id, run.name) for run in list_runs(connection)]
        assert names == [("r1", "first"), ("r2", "again"), ("r3", "named later")]
        assert load_run(connection, "again") == load_run(connection, "first") == small_run()


@pytest.mark.parametrize("name", ["", "latest", "r7"])
def test_a_name_that_means_something_else_is_refused(database: Database, name: str) -> None:
    with pytest.raises(UsageError, match="cannot have this name"), database.transaction() as connection:
        save_run(connection, "m1", "c1", small_run("kl"), name=name)


def test_another_runs_name_is_refused(database: Database) -> None:
    with pytest.raises(UsageError, match=r"already another run's: first \(r1\)"), database.transaction() as connection:
        save_run(connection, "m1", "c1", small_run("kl"), name="first")


def test_a_run_is_found_by_id_by_name_and_as_the_latest(database: Database) -> None:
    with database.transaction() as connection:
        save_run(connection, "m1", "c1", small_run("kl"))
    with database.reading() as connection:
        assert resolve_run(connection, "r1") == resolve_run(connection, "first")
        assert resolve_run(connection, "latest").id == "r2"
        assert resolve_run(connection, "r1").settings == small_run().settings
        with pytest.raises(NotFoundError, match="unknown run: frist; did you mean first"):
            resolve_run(connection, "frist")
        with pytest.raises(NotFoundError, match="unknown run: r99999"):
            resolve_run(connection, "r99999")


def test_an_empty_database_says_what_to_run_first(tmp_path: Path) -> None:
    empty = open_database(tmp_path / "empty.db", create=True)
    with empty.reading() as connection, pytest.raises(NotFoundError, match="run qgraph analyze"):
        resolve_run(connection, "latest")
    empty.close()


def test_ids_of_removed_runs_are_not_given_again(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(tables.runs.delete())
        assert save_run(connection, "m1", "c1", small_run()) == "r2"


def test_removing_a_run_takes_all_of_it_along(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(tables.runs.delete())
    counts = measure(database).rows
    assert {name for name, rows in counts.items() if rows} == {
        "calibration_samples", "calibrations", "models", "ops", "slots", "statistics", "tensors",
    }  # fmt: skip


def test_a_calibration_that_has_runs_cannot_be_removed(database: Database) -> None:
    with (
        pytest.raises(StoreError, match="something else in the database needs this"),
        database.transaction() as connection,
    ):
        connection.execute(tables.calibrations.delete())


def test_a_run_that_does_not_fit_its_model_is_refused_and_leaves_no_trace(database: Database) -> None:
    run = small_run("kl")
    strange = replace(run.tqcs[0], slot="absent:in:0")
    wrong = {
        "no slot": replace(run, tqcs=(*run.tqcs, strange)),
        "price of a requantize": replace(run, requantize_price_db={"join:in:0": 1.0}),
        "disagree": replace(run, tqcs=(replace(run.tqcs[0], group=None), *run.tqcs[1:])),
        "member has no config": replace(run, tqcs=tuple(t for t in run.tqcs if t.slot != "join:in:0")),
    }
    for message, contradiction in wrong.items():
        with pytest.raises(StoreError, match=message), database.transaction() as connection:
            save_run(connection, "m1", "c1", contradiction)
    assert measure(database).rows["runs"] == 1


def test_share_names_everyone_who_shares(database: Database) -> None:
    with database.reading() as connection:
        assert queries.share(connection, "first", "side") == {
            "tensor": "side",
            "run": "r1",
            "group": "g-shared",
            "state": "SLAVE",
            "reason": None,
            "scale": 0.25,
            "offset": 3,
            "tensors": ["joined", "mid", "side"],
            "slots": MEMBERS,
        }
        assert queries.share(connection, "r1", "bias") == {
            "tensor": "bias",
            "run": "r1",
            "group": None,
            "state": "FP32",
            "reason": "excluded by the user",
            "scale": None,
            "offset": None,
            "tensors": [],
            "slots": [],
        }
        with pytest.raises(NotFoundError, match="unknown tensor: jioned; did you mean joined"):
            queries.share(connection, "r1", "jioned")


def test_scales_has_one_entry_per_tensor_and_the_others_under_requantize(database: Database) -> None:
    with database.reading() as connection:
        found = queries.scales(connection, "latest")
    assert found["run"] == "r1"
    assert list(found["tensors"]) == ["bias", "image", "joined", "mid", "side", "weight"]
    assert found["tensors"]["mid"] == {
        "state": "ACTIVATED", "scale": 0.25, "offset": 3, "group": "g-shared", "bits": 8, "symmetric": False,
        "reason": None, "observer": None,
    }  # fmt: skip
    assert found["tensors"]["weight"]["scale"] == [0.5, 1.5]
    assert found["tensors"]["weight"]["offset"] == [0, 0]
    assert found["tensors"]["bias"]["bits"] is None
    assert found["requantize"] == [{"tensor": "mid", "slot": "graph:out:mid", "scale": 0.125, "offset": 3}]


def test_groups_are_all_there_by_id_or_the_dearest_first(database: Database) -> None:
    with database.reading() as connection:
        found = queries.groups(connection, "r1")["groups"]
        dearest = queries.groups(connection, "r1", by_cost=True)["groups"]
    assert [group["id"] for group in found] == ["g-image", "g-reader", "g-shared", "g-weight"]
    assert [group["id"] for group in dearest] == ["g-shared", "g-image", "g-reader", "g-weight"]
    assert dearest[0] == {
        "id": "g-shared", "tensors": ["joined", "mid", "side"], "as_read": [], "slots": MEMBERS,
        "scale": 0.25, "offset": 3, "price_db": 2.5, "observer": None, "observer_reason": None,
    }  # fmt: skip
    assert found[1]["tensors"] == []
    assert found[1]["as_read"] == ["mid"]
    assert found[3]["scale"] == [0.5, 1.5]


def test_show_tells_what_a_run_is(database: Database) -> None:
    with database.reading() as connection:
        found = queries.show(connection, "r1")
        (listed,) = queries.runs(connection)["runs"]
    assert found | listed == found
    assert found["settings"]["observer"] == "mse"
    assert found["settings"]["observer_parameters"] == {"percentile": 99.9, "bins": 4}
    assert (found["groups"], found["requantizes"]) == (4, 1)
    assert found["states"] == {"ACTIVATED": 4, "FP32": 1, "SLAVE": 6}
    assert found["events"] == ["a word", "another word"]


def test_a_tensor_is_shown_with_every_slot_on_it_its_own_first(database: Database) -> None:
    with database.reading() as connection:
        slots = queries.tensor(connection, "r1", "mid")["slots"]
    assert [slot["slot"] for slot in slots] == ["conv:out:0", "graph:out:mid", "join:in:0"]
    assert [slot["scale"] for slot in slots] == [0.25, 0.125, 0.25]
    assert slots[2]["master"] == "conv:out:0"


def test_coverage_counts_states_and_names_what_is_left_out(database: Database) -> None:
    with database.reading() as connection:
        found = queries.coverage(connection, "r1")
    assert found["tensors"] == {"ACTIVATED": 3, "FP32": 1, "SLAVE": 2}
    assert found["slots"] == {"ACTIVATED": 4, "FP32": 1, "SLAVE": 6}
    assert found["not_quantized"] == [{"slot": "conv:in:2", "tensor": "bias", "reason": "excluded by the user"}]


def test_the_edges_of_a_group_and_those_that_could_have_been(database: Database) -> None:
    with database.reading() as connection:
        assert lookup.edges_of_group(connection, "r1", "g-shared") == small_run().grouping.joined
        assert lookup.edges_of_group(connection, "r1", "g-image") == ()
        with pytest.raises(NotFoundError, match="did you mean g-shared"):
            lookup.edges_of_group(connection, "r1", "g-sharde")
        assert lookup.slot_of(connection, "r1", "mid") == "conv:out:0"
        assert lookup.slot_of(connection, "r1", "join:in:0") == "join:in:0"
        assert lookup.group_of(connection, "r1", "graph:out:mid") == "g-reader"
        assert lookup.group_of(connection, "r1", "conv:in:2") is None


def test_the_views_answer_in_plain_sql(database: Database) -> None:
    def ask(sql: str) -> list[tuple[object, ...]]:
        with database.reading() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(sql)]

    assert ask("SELECT what, slot FROM prices WHERE run_id = 1 AND price_db = 0.75") == [
        ("requantize", "graph:out:mid")
    ]
    assert ask("SELECT DISTINCT rule, source FROM reasons WHERE op = 'join'") == [("concat", "TFLite spec")]
    assert ask("SELECT tensor_count, slot_count FROM shared_groups WHERE group_id = 'g-shared'") == [(3, 6)]


def test_a_whole_database_has_no_findings(database: Database) -> None:
    assert integrity.check(database) == []


@pytest.mark.parametrize(
    ("damage", "check", "what"),
    [
        ("tqcs SET master = NULL WHERE state = 'SLAVE'", "states", "graph:in:side is SLAVE without a master"),
        ("tqcs SET master = 999 WHERE state = 'SLAVE'", "slots", "r1: 6 of tqcs.master have no config"),
        ("tqcs SET state = 'FIXED' WHERE state = 'SLAVE'", "states", "has a master but is not SLAVE"),
        ("tqcs SET scale = 7 WHERE state = 'SLAVE'", "states", "join:in:0 has another scale than its master"),
        ("tqcs SET \"offset\" = 7 WHERE state = 'SLAVE'", "states", "join:in:0 has another offset than its master"),
        ("tqcs SET master = slot_id WHERE state = 'SLAVE'", "states", "join:in:0 is its own master"),
        ("tqcs SET scheme = 77 WHERE state = 'SLAVE'", "states", "join:in:0 has another scheme than its group"),
        ("tqcs SET group_row = NULL WHERE state = 'SLAVE'", "states", "graph:in:side is in another group than its"),
        ("tqcs SET group_row = NULL, master = NULL, state = 'FP32'", "groups", "r1: group g-shared has no member"),
        ("run_groups SET master = 1", "groups", "group g-shared has a master that is no member"),
        ("edges SET a = 999", "slots", "r1: 3 of edges.a have no config"),
        ("requantized SET producer_id = 999", "slots", "r1: 1 of requantized.producer_id have no config"),
        ("statistics SET digest = 'x'", "statistics", "c1: those of mid are damaged"),
        ("calibrations SET status = 'complete', samples = 7", "samples", "c1: 7 were counted, 1 are named"),
        ("calibrations SET input_shapes = '{'", "file", "what qgraph never writes"),
        ("models SET parent_id = 1", "models", "m1: was made from itself"),
        ("ops SET attributes = '[['", "models", "m1: cannot be read"),
        ("runs SET settings = '{}'", "runs", "r1: cannot be read"),
        ("edges SET rule = 77", "rules", "r1: 3 edges have a rule that the run does not have"),
    ],
    ids=lambda value: value if " SET " in value else None,
)  # fmt: skip
def test_damage_is_found_and_named(database: Database, damage: str, check: str, what: str) -> None:
    with database.transaction() as connection:
        connection.exec_driver_sql(f"UPDATE {damage}")
    assert any(finding.check == check and what in finding.what for finding in integrity.check(database))


@pytest.mark.parametrize(
    ("damage", "check", "what"),
    [
        ("UPDATE tqcs SET group_row = 77", "states", "a group that the run does not have"),
        ("DELETE FROM models", "references", "refers to a row of models"),
        ("UPDATE statistics SET blob = 'text', digest = 'x'", "statistics", "c1: those of mid are damaged"),
    ],
)
def test_damage_that_only_a_file_can_have_is_found_and_named(
    empty_file: Path, tmp_path: Path, damage: str, check: str, what: str
) -> None:
    shutil.copy(empty_file, tmp_path / "q.db")
    database = open_database(tmp_path / "q.db", create=False)
    fill(database)
    with closing(sqlite3.connect(tmp_path / "q.db", isolation_level=None)) as other:
        other.execute(damage)
    assert any(finding.check == check and what in finding.what for finding in integrity.check(database))
    database.close()


def test_a_blob_that_cannot_be_read_is_found(database: Database) -> None:
    def decode(blob: bytes) -> None:
        raise StatisticsError("statistics that are corrupt", blob.decode(), "restore a backup")

    (finding,) = integrity.check(database, decode)
    assert finding == integrity.Finding(
        "statistics", "c1: those of mid cannot be read: statistics that are corrupt (blob)"
    )


def test_states_outside_the_table_are_refused_by_the_database(database: Database) -> None:
    with pytest.raises(StoreError, match="ck_tqcs_state"), database.transaction() as connection:
        connection.execute(sa.text("UPDATE tqcs SET state = 'MAYBE'"))


@pytest.mark.parametrize("name", ["first", "run 2", "größe", "r", "rc1", "c1x", "1", "x" * 200])
def test_a_name_of_a_run_may_be_any_line(name: str) -> None:
    check_name_is_usable(name)


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("", "printing"),
        (" first", "no space at either end"),
        ("a\nb", "printing"),
        ("\x1b[31m", "printing"),
        ("\udcff", "printing"),
        ("x" * 201, "at most 200"),
        ("r1", "neither an id"),
        ("c01", "neither an id"),
        ("m7", "neither an id"),
        ("latest", "latest"),
        ("-n", "begin"),
    ],
    ids=ascii,
)
def test_a_name_that_would_be_mistaken_or_cannot_be_typed_is_refused(name: str, cure: str) -> None:
    with pytest.raises(UsageError, match="a run cannot have this name") as refused:
        check_name_is_usable(name)
    assert cure in refused.value.cure
    assert str(refused.value).isprintable()


def test_a_run_tells_the_name_and_the_path_of_its_model(database: Database) -> None:
    with database.reading() as connection:
        (listed,) = queries.runs(connection)["runs"]
        record = load_model(connection, listed["model"])
    assert (listed["model_name"], listed["model_path"]) == (record.name, record.path)
