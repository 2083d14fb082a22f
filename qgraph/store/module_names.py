"""What the path of a module means where one tensor is asked for: that which the module hands to the rest of the model.

Ops of a torch module, and of many ONNX files, are named after the modules that they lie in::

    features.3.conv.0.0 ─▶ features.3.conv.0.2 ─▶ y ─▶ features.3.conv.1.0        features.3.conv.0 means y
"""

from __future__ import annotations

import sqlalchemy as sa

from qgraph.store.tables import ops, slots, tensors


def module_output(connection: sa.Connection, model: int, path: str) -> str | None:
    """The only tensor that ops of a module make and others read; None if there is no such module or no one tensor.

    Args:
        model: the model's row.
        path: ``features.3.conv.0`` or ``/features/3/conv``.
    """
    prefix = _dotted(path)
    named = connection.execute(sa.select(ops.c.id, ops.c.name).where(ops.c.model_id == model))
    inside = {row.id for row in named if prefix and f"{_dotted(row.name)}.".startswith(f"{prefix}.")}
    if not inside:
        return None
    here = slots.c.model_id == model
    found = connection.execute(sa.select(slots.c.tensor_id, slots.c.op_id, slots.c.side).where(here)).all()
    made = {row.tensor_id for row in found if row.side == "out" and row.op_id in inside}
    read = {row.tensor_id for row in found if row.tensor_id in made and row.op_id not in inside}
    if len(read) != 1:
        return None
    name = connection.scalar(sa.select(tensors.c.name).where(tensors.c.id == read.pop(), tensors.c.model_id == model))
    return None if name is None else str(name)


def _dotted(name: str) -> str:
    return name.replace("/", ".").strip(".")
