"""The tables of the database.

::

    models ── ops, tensors, slots           the structure of a model; a slot is the place of a config
       ├───── weight_solutions, bias_magnitudes, constant_statistics        what is known of its own numbers
       ├───── calibrations ── statistics, calibration_samples, leases       what its activations look like
       └───── runs ── run_schemes, run_rules, run_groups, tqcs, edges, requantized, events, findings, sensitivities

Everything below a row goes with it (``ON DELETE CASCADE``), but a calibration that has runs stays until they are
gone. The SQL views that users may rely on are described in `qgraph.store.views`.
"""

from __future__ import annotations

import sqlalchemy as sa

from qgraph.constraints.model import Kind, Strength
from qgraph.store.columns import (
    Real,
    Text,
    at_least,
    boolean,
    integer,
    key,
    large,
    moment,
    number,
    one_of,
    reference,
    scheme_checks,
    text,
)
from qgraph.tqc import QuantizationState

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

metadata = sa.MetaData(naming_convention=NAMING_CONVENTION)


models = sa.Table(
    "models",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("fingerprint", Text, nullable=False, unique=True),
    text("name"),
    text("path", nullable=True),
    integer("opset"),
    text("inputs"),  # JSON list of tensor names
    text("outputs"),  # JSON list of tensor names
    text("served", nullable=True),  # JSON: the shipped packs that the evidence serves, and what they record
    reference("parent_id", "models.id", nullable=True, delete="SET NULL"),  # whose weights were changed to make it
    text("derivation", nullable=True),  # JSON object: how it was made from its parent
    moment("created"),
    sa.Index(None, "parent_id"),
    *at_least(0, "opset"),
    sqlite_autoincrement=True,
)

ops = sa.Table(
    "ops",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),  # ascending in topological order
    reference("model_id", "models.id"),
    text("name"),
    text("type"),
    text("domain"),
    integer("input_count"),  # omitted optional ones count; they have no slot
    integer("output_count"),
    text("attributes"),  # JSON object
    text("excluded", nullable=True),
    text("origins"),  # JSON list
    sa.UniqueConstraint("model_id", "name"),
    *at_least(0, "input_count", "output_count"),
)

tensors = sa.Table(
    "tensors",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),  # ascending by name
    reference("model_id", "models.id"),
    text("name"),
    text("dtype"),
    text("shape", nullable=True),  # JSON list
    boolean("constant"),
    text("values", nullable=True),  # JSON list, of small constants only
    sa.UniqueConstraint("model_id", "name"),
)

slots = sa.Table(
    "slots",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    reference("model_id", "models.id"),
    text("name"),
    reference("tensor_id", "tensors.id"),
    reference("op_id", "ops.id", nullable=True),  # NULL: a slot of the graph itself
    text("side"),
    integer("position"),
    sa.UniqueConstraint("model_id", "name"),
    sa.Index(None, "tensor_id"),
    sa.Index(None, "op_id"),
    one_of("side", ("in", "out", "const")),
    *at_least(0, "position"),
)

weight_solutions = sa.Table(
    "weight_solutions",
    metadata,
    key("model_id", "models.id"),
    number("position"),
    text("tensor"),
    text("method"),
    integer("bits"),
    boolean("signed"),
    boolean("symmetric"),
    large("quant_min"),
    large("quant_max"),
    integer("axis", nullable=True),
    boolean("power_of_two"),
    text("scales"),  # JSON list
    sa.Column("noise_db", Real, nullable=False),
    *scheme_checks(),
)

bias_magnitudes = sa.Table(
    "bias_magnitudes",
    metadata,
    key("model_id", "models.id"),
    number("position"),
    text("tensor"),
    text("magnitudes"),  # JSON list
)

constant_statistics = sa.Table(
    "constant_statistics",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    reference("model_id", "models.id"),
    text("tensor"),
    text("digest"),
    sa.Column("blob", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("model_id", "tensor"),
)

calibrations = sa.Table(
    "calibrations",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    reference("model_id", "models.id"),
    sa.Column("identity", Text, nullable=False, unique=True),  # digest of the model and the seven that follow
    text("data_digest", nullable=True),
    text("preprocessing", nullable=True),
    integer("steps", nullable=True),
    integer("batch_size", nullable=True),
    text("runner", nullable=True),
    text("capability", nullable=True),
    text("shard", nullable=True),  # 1/3: the first of three parts of the data
    text("input_shapes"),  # JSON object: by input, a shape in which the model is fed
    text("passes", nullable=True),  # JSON, while there are several: what is finished, and what is being counted
    text("status"),
    text("version"),  # of the qgraph that began it
    large("samples", default="0"),
    large("inferences", default="0"),
    moment("created"),
    moment("updated"),
    sa.Index(None, "model_id"),
    one_of("status", ("partial", "complete")),
    *at_least(0, "samples", "inferences"),
    *at_least(1, "steps", "batch_size"),
    sqlite_autoincrement=True,
)

calibration_samples = sa.Table(
    "calibration_samples",
    metadata,
    key("calibration_id", "calibrations.id"),
    sa.Column("sample", Text, primary_key=True),  # content hash
    large("multiplicity"),
    integer("position", nullable=True),  # in the data that it was given in, from 0: of its first occurrence
    text("origin", nullable=True),  # the file that it comes from, and where in it
    *at_least(1, "multiplicity"),
)

statistics = sa.Table(
    "statistics",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    reference("calibration_id", "calibrations.id"),
    text("tensor"),
    text("digest"),
    sa.Column("blob", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("calibration_id", "tensor"),
)

leases = sa.Table(
    "leases",
    metadata,
    key("calibration_id", "calibrations.id"),
    text("owner"),  # a token of its own for every claim
    text("host"),
    text("process_space"),  # where the pid means something: boot and pid namespace
    integer("pid"),
    text("process_start", nullable=True),
    sa.Column("since", sa.Double, nullable=False),  # seconds since 1970 by the database's clock
    sa.Column("heartbeat", sa.Double, nullable=False),
)

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", Text, nullable=True, unique=True),
    reference("model_id", "models.id"),
    reference("calibration_id", "calibrations.id", nullable=True, delete="NO ACTION"),
    large("samples"),  # of the calibration when the run was solved: a partial one grows
    text("target"),
    text("target_version"),
    text("observer", nullable=True),
    text("settings"),  # JSON object, all of them
    text("identity"),  # digest of model, calibration, samples and settings
    text("version"),  # of the qgraph that solved it
    moment("created"),
    sa.Index(None, "identity"),
    sa.Index(None, "model_id"),
    sa.Index(None, "calibration_id"),
    *at_least(0, "samples"),
    sqlite_autoincrement=True,
)

run_schemes = sa.Table(
    "run_schemes",
    metadata,
    key("run_id", "runs.id"),
    number("number"),
    integer("bits"),
    boolean("signed"),
    boolean("symmetric"),
    large("quant_min"),
    large("quant_max"),
    integer("axis", nullable=True),
    boolean("power_of_two"),
    *scheme_checks(),
)

run_rules = sa.Table(
    "run_rules",
    metadata,
    key("run_id", "runs.id"),
    number("number"),
    text("rule", nullable=True),
    text("op_type", nullable=True),
    text("source", nullable=True),
)

run_groups = sa.Table(
    "run_groups",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),  # ascending in the order of the run
    reference("run_id", "runs.id"),
    text("group_id"),  # digest of the members
    integer("master"),  # a slot
    integer("scheme"),
    text("fixed", nullable=True),  # JSON object
    text("derived", nullable=True),  # JSON object
    text("observer", nullable=True),  # which one "auto" took
    text("observer_reason", nullable=True),
    sa.UniqueConstraint("run_id", "group_id"),
)

tqcs = sa.Table(
    "tqcs",
    metadata,
    key("run_id", "runs.id"),
    sa.Column("slot_id", sa.Integer, sa.ForeignKey("slots.id", ondelete="CASCADE"), primary_key=True),
    boolean("represents"),  # the slot that is meant by its tensor's name
    text("role"),
    text("state"),
    integer("scheme", nullable=True),
    sa.Column("scale", Real, nullable=True),  # where there is exactly one
    large("offset", nullable=True),
    text("scales", nullable=True),  # JSON list, where there is not exactly one
    text("offsets", nullable=True),
    integer("master", nullable=True),  # a slot
    reference("group_row", "run_groups.id", nullable=True),
    text("reason", nullable=True),
    sa.Column("noise_db", Real, nullable=True),
    sa.Column("own_noise_db", Real, nullable=True),
    sa.Column("price_db", Real, nullable=True),  # the difference, kept because SQL cannot compute with NaN
    sa.Index(None, "slot_id"),
    sa.Index(None, "group_row"),
    one_of("state", QuantizationState),
    sa.CheckConstraint("scale > 0", name="scale"),
    sa.CheckConstraint('(scale IS NULL) = ("offset" IS NULL)', name="offset"),
    sa.CheckConstraint("scale IS NULL OR scales IS NULL", name="scales"),
    sqlite_with_rowid=False,
)

edges = sa.Table(
    "edges",
    metadata,
    key("run_id", "runs.id"),
    number("position"),
    text("kind"),
    integer("a"),  # a slot
    integer("b"),  # a slot
    text("strength", nullable=True),
    integer("rule", nullable=True),
    text("op", nullable=True),
    reference("group_row", "run_groups.id", nullable=True),
    sa.Index(None, "group_row"),
    one_of("kind", Kind),
    one_of("strength", Strength),
    sqlite_with_rowid=False,
)

requantized = sa.Table(
    "requantized",
    metadata,
    key("run_id", "runs.id"),
    number("slot_id"),
    integer("producer_id"),  # a slot
    sa.Column("price_db", Real, nullable=True),
)

events = sa.Table(
    "events",
    metadata,
    key("run_id", "runs.id"),
    number("position"),
    text("message"),
)

findings = sa.Table(
    "findings",
    metadata,
    key("run_id", "runs.id"),
    number("position"),
    text("kind"),
    text("rule"),
    text("op"),
    text("op_type"),
    text("source"),
    text("slots"),  # JSON list
    text("message"),
)

sensitivities = sa.Table(
    "sensitivities",
    metadata,
    key("run_id", "runs.id"),
    sa.Column("data", Text, primary_key=True),  # digest of the samples that it was measured on, and how
    sa.Column("kind", Text, primary_key=True),
    sa.Column("subject", Text, primary_key=True),  # the name of an op or tensor, the id of a group
    sa.Column("part", Text, primary_key=True),
    sa.Column("output", Text, primary_key=True),  # of the model; empty for all of them together
    sa.Column("noise_db", Real, nullable=False),  # at that output, from that part of that subject's quantization alone
    one_of("kind", ("op", "tensor", "group")),
    one_of("part", ("all", "rounding", "clipping", "sharing")),
)
