"""What is made a million times at once behaves as any frozen dataclass."""

from __future__ import annotations

import gc
import pickle
from dataclasses import fields, replace

from qgraph.constraints.model import TensorEdge
from qgraph.objects import many_objects

EDGE = TensorEdge("t", "a:out:0", "b:in:0")


def test_records_are_values() -> None:
    twin = replace(EDGE)
    assert twin is not EDGE
    assert twin == EDGE
    assert hash(twin) == hash(EDGE)
    assert replace(EDGE, tensor="u") != EDGE
    assert pickle.loads(pickle.dumps(EDGE)) == EDGE
    assert [field.name for field in fields(EDGE)] == ["tensor", "producer", "consumer"]


def test_records_have_no_room_for_anything_else() -> None:
    assert not hasattr(EDGE, "__dict__")


def test_the_search_for_cycles_goes_on_afterwards() -> None:
    assert gc.isenabled()
    with many_objects():
        assert not gc.isenabled()
        with many_objects():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
