"""The model as one bipartite `networkx.MultiDiGraph` of op nodes and tensor nodes.

An edge op -> tensor is an output slot, an edge tensor -> op an input slot; the edge key is the slot's
index, so ``Mul(a, a)`` keeps two edges::

    a ══0══▶ Mul ──0──▶ b          ("tensor", "a") ⇉ ("op", "Mul") → ("tensor", "b")
      ══1══▶
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import networkx as nx

from qgraph.errors import NotFoundError
from qgraph.ir.elements import Op, Structure, Tensor

OpNode = tuple[str, str]


class Graph:
    """A model's structure with its connections. Not changed once it is made."""

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self._ops = {op.name: op for op in structure.ops}
        self._tensors = {tensor.name: tensor for tensor in structure.tensors}

    @cached_property
    def nx(self) -> nx.MultiDiGraph[OpNode]:
        """The graph itself; op nodes are ``("op", name)``, tensor nodes ``("tensor", name)``.

        Made when it is first asked for: with a million edges it takes seconds, and passes over whole models have
        lookups of their own.
        """
        graph: nx.MultiDiGraph[OpNode] = nx.MultiDiGraph()
        graph.add_nodes_from((("tensor", name), {"tensor": t}) for name, t in self._tensors.items())
        graph.add_nodes_from((("op", name), {"op": op}) for name, op in self._ops.items())
        for op in self.structure.ops:
            for index, name in enumerate(op.inputs):
                if name is not None:
                    graph.add_edge(("tensor", name), ("op", op.name), key=index)
            for index, name in enumerate(op.outputs):
                if name is not None:
                    graph.add_edge(("op", op.name), ("tensor", name), key=index)
        return graph

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors that the data provides."""
        return self.structure.inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the tensors that the model returns."""
        return self.structure.outputs

    def ops(self) -> Iterator[Op]:
        """All ops in topological order."""
        return iter(self.structure.ops)

    def tensors(self) -> Iterator[Tensor]:
        """All tensors, sorted by name."""
        return iter(self.structure.tensors)

    def op(self, name: str) -> Op:
        """The op of that name; raises `NotFoundError` with near matches."""
        try:
            return self._ops[name]
        except KeyError:
            raise NotFoundError.among("op", name, self._ops, "check the name in the model") from None

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name; raises `NotFoundError` with near matches."""
        try:
            return self._tensors[name]
        except KeyError:
            raise NotFoundError.among("tensor", name, self._tensors, "check the name in the model") from None

    def producer(self, tensor: str) -> tuple[Op, int] | None:
        """The op and output index that make a tensor; None for graph inputs and constants."""
        for (_, name), _, index in self.nx.in_edges(("tensor", tensor), keys=True):
            return self._ops[name], index
        return None

    def consumers(self, tensor: str) -> list[tuple[Op, int]]:
        """The ops and input indices that read a tensor, sorted by op name and index."""
        edges = self.nx.out_edges(("tensor", tensor), keys=True)
        return [(self._ops[name], index) for name, index in sorted((op[1], index) for _, op, index in edges)]
