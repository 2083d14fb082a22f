"""What a group is solved from."""

from itertools import permutations

import numpy as np

from qgraph.calib.statistics import same_statistics, statistics_of
from qgraph.ir.elements import Op
from qgraph.solve.pool import counted, pooled


def op(kind: str, inputs: tuple[str | None, ...], output: str, domain: str = "") -> tuple[str, Op]:
    return output, Op(f"{kind}@{output}", kind, domain, inputs, (output,))


def test_a_chain_of_repetitions_is_counted_once() -> None:
    producers = dict([op("Concat", ("a", "b"), "c"), op("Reshape", ("c", "shape"), "d"), op("Relu", ("d",), "e")])
    assert counted(["e", "d", "c", "b", "a"], producers) == ("a", "b", "e")


def test_a_repetition_counts_where_its_source_is_elsewhere() -> None:
    producers = dict([op("Concat", ("a", "b"), "c"), op("MaxPool", ("x",), "y"), op("Identity", ("a",), "z", "custom")])
    assert counted(["a", "c", "y", "z"], producers) == ("a", "c", "y", "z")


def test_an_optional_input_of_a_concat_is_no_member() -> None:
    assert counted(["a", "c"], dict([op("Concat", ("a", None), "c")])) == ("a",)


def test_pooling_is_the_statistics_of_all_values_in_any_order() -> None:
    parts = [np.array(values, np.float32) for values in ([6.0, 6.0, 1.0], [-9.0, 3.0], [], [12.0, 0.0, 6.0])]
    members = [statistics_of(part, atoms) for part, atoms in zip(parts, [(6.0,), (), (), (0.0,)], strict=True)]
    results = [pooled(order) for order in permutations(members)]
    assert all(same_statistics(one, results[0]) for one in results)
    whole = statistics_of(np.concatenate(parts))
    assert results[0].finite == whole.finite
    assert (results[0].minimum, results[0].maximum) == (-9.0, 12.0)
    assert results[0].bins.tolist() == whole.bins.tolist()


def test_an_extreme_of_one_member_stays_exact_in_the_pool() -> None:
    clipped = statistics_of([2.0] * 500 + [-1.0])
    assert dict(pooled([clipped, statistics_of([30.0])]).atoms)[2.0] == 500
