"""The SQL views that users may rely on: from one release to the next they keep their names and columns.

In all of them `run_id` is the number of a run (2 for ``r2``), names are those of the model, and NULL means "not
known" or "does not apply". `scale` and `offset` are filled where there is one of each, `scales` and `offsets` (JSON
lists) where there is one per channel. `observer` is the one that ``auto`` took, NULL in runs of another observer.
Noise and prices are in dB. A NaN is the text ``NaN`` in SQLite.

view            one row for each
slot_scales     config: every slot on a float tensor of a run, quantizable or not
tensor_scales   tensor: the config of the slot that the tensor's name means, its producer's
shared_groups   group, singletons too; `price_db` is the largest price that a member pays
group_members   slot in a group
reasons         edge between two slots that made them share, with their group
requantizes     reader whose parameters differ from those its tensor was made with
prices          price: `what` is ``sharing`` or ``requantize``
run_summaries   run, with its model and calibration
compared_scales tensor in each pair of runs of one model: name both runs, `run_a` and `run_b`

The SELECTs are in the migrations; a test compares their columns with these.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from qgraph.store.columns import Real

_REALS = frozenset(
    {"scale", "noise_db", "own_noise_db", "price_db", "scale_a", "scale_b", "noise_db_a", "noise_db_b", "damage_db"}
)
_BOOLEANS = frozenset({"represents", "signed", "symmetric", "power_of_two"})
_INTEGERS = frozenset(
    {"run_id", "offset", "bits", "quant_min", "quant_max", "axis", "position", "slot_id", "slot_count", "tensor_count"}
    | {"run_a", "run_b", "offset_a", "offset_b", "model_id", "calibration_id", "samples"}
)


def _view(name: str, columns: str) -> sa.TableClause:
    return sa.table(name, *(sa.column(column, _type(column)) for column in columns.split()))


def _type(column: str) -> sa.types.TypeEngine[Any]:
    if column in _REALS:
        return Real()
    if column in _BOOLEANS:
        return sa.Boolean()
    return sa.Integer() if column in _INTEGERS else sa.Text()


_PARAMETERS = "scale offset scales offsets"
_SCHEME = "bits signed symmetric quant_min quant_max axis power_of_two"

slot_scales = _view(
    "slot_scales",
    f"run_id slot_id tensor slot represents role state {_PARAMETERS} {_SCHEME} "
    "group_id master reason observer observer_reason noise_db own_noise_db price_db",
)
tensor_scales = _view(
    "tensor_scales",
    f"run_id slot_id tensor slot role state {_PARAMETERS} {_SCHEME} "
    "group_id reason observer observer_reason noise_db own_noise_db price_db",
)
group_members = _view("group_members", "run_id group_id slot tensor represents state price_db")
shared_groups = _view(
    "shared_groups",
    f"run_id group_id master {_PARAMETERS} bits signed symmetric slot_count tensor_count price_db "
    "observer observer_reason",
)
reasons = _view("reasons", "run_id position kind a b rule op op_type strength source group_id")
requantizes = _view("requantizes", f"run_id tensor slot producer {_PARAMETERS} price_db")
prices = _view("prices", "run_id what tensor slot group_id price_db")
run_summaries = _view(
    "run_summaries",
    "run_id name model_id model_name model_path model_fingerprint calibration_id samples target target_version "
    "observer settings created version",
)
compared_scales = _view(
    "compared_scales",
    "run_a run_b tensor slot state_a state_b scale_a scale_b offset_a offset_b scales_a scales_b noise_db_a noise_db_b "
    "damage_db",
)

VIEWS = (
    slot_scales,
    tensor_scales,
    group_members,
    shared_groups,
    reasons,
    requantizes,
    prices,
    run_summaries,
    compared_scales,
)
