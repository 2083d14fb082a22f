from hypothesis import given
from hypothesis import strategies as st

from qgraph.constraints.union_find import UnionFind

PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)))


def sets_of(pairs: list[tuple[int, int]]) -> set[frozenset[int]]:
    sets = UnionFind(10)
    for a, b in pairs:
        sets.union(a, b)
    roots = sets.roots()
    return {frozenset(i for i in range(10) if roots[i] == root) for root in roots}


@given(PAIRS)
def test_sets_do_not_depend_on_the_order_of_unions(pairs: list[tuple[int, int]]) -> None:
    assert sets_of(pairs) == sets_of([(b, a) for a, b in reversed(pairs)])


@given(PAIRS)
def test_union_tells_whether_there_were_two_sets(pairs: list[tuple[int, int]]) -> None:
    sets = UnionFind(10)
    assert sum(sets.union(a, b) for a, b in pairs) == 10 - len(sets_of(pairs))


def test_a_long_chain_needs_no_recursion() -> None:
    sets = UnionFind(200_000)
    for i in range(199_999):
        sets.union(i, i + 1)
    assert len(set(sets.roots())) == 1


def test_a_copy_is_independent() -> None:
    sets = UnionFind(2)
    twin = sets.copy()
    twin.union(0, 1)
    assert sets.find(0) != sets.find(1)
