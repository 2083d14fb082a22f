from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from store_examples import exact, floats, runs, small_structure, structures

from qgraph.calib.evidence import BiasMagnitude, WeightSolution
from qgraph.errors import NotFoundError, StatisticsError, StoreError
from qgraph.ir.elements import Structure
from qgraph.store import evidence, models, tables
from qgraph.store.database import Database, open_database
from qgraph.store.encoding import decode, encode
from qgraph.store.runs import load_run, save_run
from qgraph.tqc import Scheme


@contextmanager
def undone(database: Database) -> Iterator[sa.Connection]:
    """A transaction that leaves no trace, so that one database serves every example."""
    with database.engine.connect().execution_options(begin_mode="write") as connection:
        transaction = connection.begin()
        try:
            yield connection
        finally:
            transaction.rollback()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One of each kind for all tests here, which leave nothing in it."""
    file = tmp_path_factory.mktemp("round trips") / "q.db"
    place = file if request.param == "sqlite" else request.getfixturevalue("postgresql").new_database()
    opened = open_database(place, create=True)
    yield opened
    opened.close()


@given(structure=structures())
@settings(deadline=None, max_examples=60)
def test_any_structure_comes_back_exactly(database: Database, structure: Structure) -> None:
    with undone(database) as connection:
        model = models.save_model(connection, structure, None)
        restored = models.load_structure(connection, model)
        assert exact(restored) == exact(structure)


@given(data=st.data(), structure=structures())
@settings(deadline=None, max_examples=80)
def test_any_run_comes_back_exactly(database: Database, data: st.DataObject, structure: Structure) -> None:
    run = data.draw(runs(structure))
    with undone(database) as connection:
        model = models.save_model(connection, structure, None)
        found = save_run(connection, model, None, run)
        assert exact(load_run(connection, found)) == exact(run)


@given(
    noise=floats,
    scale=st.lists(floats, max_size=3).map(tuple),
    blobs=st.dictionaries(st.sampled_from(["it's", "ü", "100%"]), st.binary(max_size=20)),
)
@settings(deadline=None, max_examples=30)
def test_evidence_comes_back_exactly(
    database: Database, noise: float, scale: tuple[float, ...], blobs: dict[str, bytes]
) -> None:
    scheme = Scheme(8, signed=True, symmetric=True, quant_min=-127, quant_max=127, axis=0)
    weights = (WeightSolution("weight", scheme, "mse", scale, noise), WeightSolution("a", scheme, "minmax", (), 0.0))
    biases = (BiasMagnitude("bias", scale),)
    with undone(database) as connection:
        model = models.save_model(connection, small_structure(), None)
        evidence.save_evidence(connection, model, (), (), {"old": b"x"})
        evidence.save_evidence(connection, model, weights, biases, blobs)
        found = evidence.load_evidence(connection, model)
        assert exact((found.weights, found.biases)) == exact((weights, biases))
        assert found.constants == blobs


def test_a_damaged_blob_is_noticed(database: Database) -> None:
    with undone(database) as connection:
        model = models.save_model(connection, small_structure("damaged"), None)
        evidence.save_evidence(connection, model, (), (), {"bias": b"good"})
        connection.execute(tables.constant_statistics.update().values(blob=b"gone"))
        with pytest.raises(StatisticsError, match="damaged statistics"):
            evidence.load_evidence(connection, model)


def test_a_model_is_stored_once_and_its_newest_path_is_known(location: str) -> None:
    database = open_database(location, create=False)
    with database.transaction() as connection:
        assert models.save_model(connection, small_structure(), "small.onnx") == "m1"
        assert models.save_model(connection, small_structure("f2"), None) == "m2"
        assert models.save_model(connection, small_structure(), "elsewhere.onnx") == "m1"
    with database.reading() as connection:
        assert [(m.id, m.name, m.path) for m in models.list_models(connection)] == [
            ("m1", "small", "elsewhere.onnx"),
            ("m2", "small", None),
        ]
        assert models.find_model(connection, "f2") == "m2"
        assert models.load_structure(connection, "m2") == small_structure("f2")
        with pytest.raises(NotFoundError, match="unknown model: m9"):
            models.load_model(connection, "m9")
    database.close()


def test_a_structure_that_reads_what_it_does_not_have_is_refused_and_leaves_no_trace(location: str) -> None:
    whole = small_structure()
    broken = Structure("broken", "f", 17, whole.ops, whole.tensors[1:], whole.inputs, whole.outputs)
    database = open_database(location, create=False)
    with pytest.raises(StoreError, match="tensor bias"), database.transaction() as connection:
        models.save_model(connection, broken, None)
    with database.reading() as connection:
        assert models.list_models(connection) == []
    database.close()


@given(
    st.recursive(
        st.none() | st.booleans() | floats | st.integers() | st.text(),
        lambda v: st.lists(v, max_size=3).map(tuple),
        max_leaves=6,
    )
)
def test_encoding_is_exact_to_the_sign_of_zero(value: object) -> None:
    assert repr(decode(encode(value))) == repr(value)  # type: ignore[arg-type]


def test_a_mapping_is_never_taken_for_a_special_float() -> None:
    for mapping in ({"float": "nan"}, {"mapping": {"float": 1.0}}, {}):
        assert decode(encode(mapping)) == mapping
