"""When a rule applies to an op: conditions on its parameters, as data that a rule pack states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qgraph.ir.elements import AttributeValue, Op, Tensor

Scalar = str | float


@dataclass(frozen=True, slots=True)
class Condition:
    """What one parameter of an op must be.

    Parameters moved from attributes to inputs over the opsets, so both may be named.

    Attributes:
        input: index of the input that holds the parameter, or None.
        attribute: name of the attribute that holds it where the input is left out, or None.
        default: what it is where neither is given, or where there is no such dimension; None where nothing says.
        one_of: the values that satisfy the condition; None where any value does.
        none_of: the values that do not satisfy it. One that is not known before the model runs does.
        constant: whether the input must be (True) or must not be (False) a constant of the model; None where it does
            not matter.
        dimension: the values are about the size of this dimension of the input, not about what it holds.
    """

    input: int | None = None
    attribute: str | None = None
    default: Scalar | None = None
    one_of: tuple[Scalar, ...] | None = None
    none_of: tuple[Scalar, ...] = ()
    constant: bool | None = None
    dimension: int | None = None

    def holds(self, op: Op, tensors: Mapping[str, Tensor]) -> bool:
        """Whether `op` satisfies the condition; `tensors` are the model's, by name."""
        if self.constant is not None and self._is_constant(op, tensors) != self.constant:
            return False
        if self.one_of is None and not self.none_of:
            return True
        value = self._value(op, tensors)
        return (self.one_of is None or value in self.one_of) and value not in self.none_of

    def _operand(self, op: Op, tensors: Mapping[str, Tensor]) -> Tensor | None:
        if self.input is None or self.input >= len(op.inputs):
            return None
        name = op.inputs[self.input]
        return None if name is None else tensors[name]

    def _is_constant(self, op: Op, tensors: Mapping[str, Tensor]) -> bool:
        operand = self._operand(op, tensors)
        return operand is not None and operand.constant

    def _value(self, op: Op, tensors: Mapping[str, Tensor]) -> Scalar | None:
        operand = self._operand(op, tensors)
        if self.dimension is not None:
            return None if operand is None else _size(operand, self.dimension, self.default)
        if operand is not None:
            distinct = set(operand.values or ())
            return float(distinct.pop()) if len(distinct) == 1 else None
        if self.attribute is not None and self.attribute in op.attributes:
            return _scalar(op.attributes[self.attribute])
        return self.default


def _size(tensor: Tensor, dimension: int, missing: Scalar | None) -> Scalar | None:
    """The size of a dimension, or `missing` where the tensor has fewer; None where it is not a known number."""
    if tensor.shape is None:
        return None
    if dimension >= len(tensor.shape):
        return missing
    size = tensor.shape[dimension]
    return float(size) if isinstance(size, int) else None


def _scalar(value: AttributeValue) -> Scalar | None:
    if isinstance(value, str):
        return value
    return float(value) if isinstance(value, (int, float)) else None
