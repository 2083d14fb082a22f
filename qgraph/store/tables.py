"""The tables of the database, and how special floats are written in them.

::

    models ── ops, tensors, slots           the structure of a model; a slot is the place of a config
       ├───── weight_solutions, bias_magnitudes, constant_statistics        what is known of its own numbers
       ├───── calibrations ── statistics, calibration_samples, leases       what its activations look like
       └───── runs ── run_schemes, run_rules, run_groups, tqcs, edges, requantized, events, findings, sensitivities

Everything below a row goes with it (``ON DELETE CASCADE``), but a calibration that has runs stays until they are
gone. The SQL views that users may rely on are described in `qgraph.store.views`.
"""

from __future__ import annotations

import math
from typing import Any

import sqlalchemy as sa

from qgraph.constraints.model import Kind, Strength
from qgraph.tqc import QuantizationState

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

NOT_A_NUMBER = "NaN"

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
"""Sorts by code points whatever the server's language."""

metadata = sa.MetaData(naming_convention=NAMING_CONVENTION)


class _UnprocessedReal(sa.types.UserDefinedType[object]):
    """A column of SQLite's REAL affinity whose values pass as they are: SQLAlchemy's own type would undo the text."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """How the column is declared."""
        return "DOUBLE"


class Real(sa.types.TypeDecorator[float]):
    """A float64, special ones included. SQLite turns NaN into NULL, so there NaN is the text ``NaN``."""

    impl = sa.Double
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        """SQLite's column for SQLite, a double elsewhere."""
        return dialect.type_descriptor(_UnprocessedReal() if dialect.name == "sqlite" else sa.Double())

    def process_bind_param(self, value: float | None, dialect: sa.Dialect) -> object:
        """Write NaN as a text where the database has no NaN."""
        if value is not None and dialect.name == "sqlite" and math.isnan(value):
            return NOT_A_NUMBER
        return value

    def process_result_value(self, value: object, dialect: sa.Dialect) -> float | None:  # noqa: ARG002 - a protocol
        """Read a float, or the text that stands for NaN."""
        return None if value is None else float(value)  # type: ignore[arg-type]


def _one_of(column: str, values: type[QuantizationState | Kind | Strength] | tuple[str, ...]) -> sa.CheckConstraint:
    # SQLite builds a table for each IN (...) of each row: with OR, writing a run takes a quarter less.
    return sa.CheckConstraint(" OR ".join(f"{column} = {str(value)!r}" for value in values), name=column)


def _from(least: int, *columns: str) -> list[sa.CheckConstraint]:
    return [sa.CheckConstraint(f"{column} >= {least}", name=column) for column in columns]


MOST_BITS = 64
_SCHEME_CHECKS = (f"bits BETWEEN 1 AND {MOST_BITS}", "quant_min < quant_max")


def _scheme_checks() -> list[sa.CheckConstraint]:
    return [sa.CheckConstraint(rule, name=name) for name, rule in zip(("bits", "range"), _SCHEME_CHECKS, strict=True)]


def _reference(name: str, target: str, *, nullable: bool = False, delete: str = "CASCADE") -> sa.Column[int]:
    return sa.Column(name, sa.Integer, sa.ForeignKey(target, ondelete=delete), nullable=nullable)


def _key(name: str, target: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, sa.ForeignKey(target, ondelete="CASCADE"), primary_key=True, autoincrement=False)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, primary_key=True, autoincrement=False)


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, Text, nullable=nullable)


def _integer(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=nullable)


def _large(name: str, *, nullable: bool = False, default: str | None = None) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=nullable, server_default=default)


def _boolean(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean, nullable=False)


def _moment(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime, nullable=False, server_default=sa.text("CURRENT_TIMESTAMP"))


models = sa.Table(
    "models",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("fingerprint", Text, nullable=False, unique=True),
    _text("name"),
    _text("path", nullable=True),
    _integer("opset"),
    _text("inputs"),  # JSON list of tensor names
    _text("outputs"),  # JSON list of tensor names
    _text("served", nullable=True),  # JSON: the shipped packs that the evidence serves, and what they record
    _reference("parent_id", "models.id", nullable=True, delete="SET NULL"),  # whose weights were changed to make it
    _text("derivation", nullable=True),  # JSON object: how it was made from its parent
    _moment("created"),
    sa.Index(None, "parent_id"),
    *_from(0, "opset"),
    sqlite_autoincrement=True,
)

ops = sa.Table(
    "ops",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),  # ascending in topological order
    _reference("model_id", "models.id"),
    _text("name"),
    _text("type"),
    _text("domain"),
    _integer("input_count"),  # omitted optional ones count; they have no slot
    _integer("output_count"),
    _text("attributes"),  # JSON object
    _text("excluded", nullable=True),
    _text("origins"),  # JSON list
    sa.UniqueConstraint("model_id", "name"),
    *_from(0, "input_count", "output_count"),
)

tensors = sa.Table(
    "tensors",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),  # ascending by name
    _reference("model_id", "models.id"),
    _text("name"),
    _text("dtype"),
    _text("shape", nullable=True),  # JSON list
    _boolean("constant"),
    _text("values", nullable=True),  # JSON list, of small constants only
    sa.UniqueConstraint("model_id", "name"),
)

slots = sa.Table(
    "slots",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    _reference("model_id", "models.id"),
    _text("name"),
    _reference("tensor_id", "tensors.id"),
    _reference("op_id", "ops.id", nullable=True),  # NULL: a slot of the graph itself
    _text("side"),
    _integer("position"),
    sa.UniqueConstraint("model_id", "name"),
    sa.Index(None, "tensor_id"),
    sa.Index(None, "op_id"),
    _one_of("side", ("in", "out", "const")),
    *_from(0, "position"),
)

weight_solutions = sa.Table(
    "weight_solutions",
    metadata,
    _key("model_id", "models.id"),
    _number("position"),
    _text("tensor"),
    _text("method"),
    _integer("bits"),
    _boolean("signed"),
    _boolean("symmetric"),
    _large("quant_min"),
    _large("quant_max"),
    _integer("axis", nullable=True),
    _boolean("power_of_two"),
    _text("scales"),  # JSON list
    sa.Column("noise_db", Real, nullable=False),
    *_scheme_checks(),
)

bias_magnitudes = sa.Table(
    "bias_magnitudes",
    metadata,
    _key("model_id", "models.id"),
    _number("position"),
    _text("tensor"),
    _text("magnitudes"),  # JSON list
)

constant_statistics = sa.Table(
    "constant_statistics",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    _reference("model_id", "models.id"),
    _text("tensor"),
    _text("digest"),
    sa.Column("blob", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("model_id", "tensor"),
)

calibrations = sa.Table(
    "calibrations",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    _reference("model_id", "models.id"),
    sa.Column("identity", Text, nullable=False, unique=True),  # digest of the model and the seven that follow
    _text("data_digest", nullable=True),
    _text("preprocessing", nullable=True),
    _integer("steps", nullable=True),
    _integer("batch_size", nullable=True),
    _text("runner", nullable=True),
    _text("capability", nullable=True),
    _text("shard", nullable=True),  # 1/3: the first of three parts of the data
    _text("input_shapes"),  # JSON object: by input, a shape in which the model is fed
    _text("passes", nullable=True),  # JSON, while there are several: what is finished, and what is being counted
    _text("status"),
    _text("version"),  # of the qgraph that began it
    _large("samples", default="0"),
    _large("inferences", default="0"),
    _moment("created"),
    _moment("updated"),
    sa.Index(None, "model_id"),
    _one_of("status", ("partial", "complete")),
    *_from(0, "samples", "inferences"),
    *_from(1, "steps", "batch_size"),
    sqlite_autoincrement=True,
)

calibration_samples = sa.Table(
    "calibration_samples",
    metadata,
    _key("calibration_id", "calibrations.id"),
    sa.Column("sample", Text, primary_key=True),  # content hash
    _large("multiplicity"),
    _integer("position", nullable=True),  # in the data that it was given in, from 0: of its first occurrence
    _text("origin", nullable=True),  # the file that it comes from, and where in it
    *_from(1, "multiplicity"),
)

statistics = sa.Table(
    "statistics",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    _reference("calibration_id", "calibrations.id"),
    _text("tensor"),
    _text("digest"),
    sa.Column("blob", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("calibration_id", "tensor"),
)

leases = sa.Table(
    "leases",
    metadata,
    _key("calibration_id", "calibrations.id"),
    _text("owner"),  # a token of its own for every claim
    _text("host"),
    _text("process_space"),  # where the pid means something: boot and pid namespace
    _integer("pid"),
    _text("process_start", nullable=True),
    sa.Column("since", sa.Double, nullable=False),  # seconds since 1970 by the database's clock
    sa.Column("heartbeat", sa.Double, nullable=False),
)

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", Text, nullable=True, unique=True),
    _reference("model_id", "models.id"),
    _reference("calibration_id", "calibrations.id", nullable=True, delete="NO ACTION"),
    _large("samples"),  # of the calibration when the run was solved: a partial one grows
    _text("target"),
    _text("target_version"),
    _text("observer", nullable=True),
    _text("settings"),  # JSON object, all of them
    _text("identity"),  # digest of model, calibration, samples and settings
    _text("version"),  # of the qgraph that solved it
    _moment("created"),
    sa.Index(None, "identity"),
    sa.Index(None, "model_id"),
    sa.Index(None, "calibration_id"),
    *_from(0, "samples"),
    sqlite_autoincrement=True,
)

run_schemes = sa.Table(
    "run_schemes",
    metadata,
    _key("run_id", "runs.id"),
    _number("number"),
    _integer("bits"),
    _boolean("signed"),
    _boolean("symmetric"),
    _large("quant_min"),
    _large("quant_max"),
    _integer("axis", nullable=True),
    _boolean("power_of_two"),
    *_scheme_checks(),
)

run_rules = sa.Table(
    "run_rules",
    metadata,
    _key("run_id", "runs.id"),
    _number("number"),
    _text("rule", nullable=True),
    _text("op_type", nullable=True),
    _text("source", nullable=True),
)

run_groups = sa.Table(
    "run_groups",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),  # ascending in the order of the run
    _reference("run_id", "runs.id"),
    _text("group_id"),  # digest of the members
    _integer("master"),  # a slot
    _integer("scheme"),
    _text("fixed", nullable=True),  # JSON object
    _text("derived", nullable=True),  # JSON object
    _text("observer", nullable=True),  # which one "auto" took
    _text("observer_reason", nullable=True),
    sa.UniqueConstraint("run_id", "group_id"),
)

tqcs = sa.Table(
    "tqcs",
    metadata,
    _key("run_id", "runs.id"),
    sa.Column("slot_id", sa.Integer, sa.ForeignKey("slots.id", ondelete="CASCADE"), primary_key=True),
    _boolean("represents"),  # the slot that is meant by its tensor's name
    _text("role"),
    _text("state"),
    _integer("scheme", nullable=True),
    sa.Column("scale", Real, nullable=True),  # where there is exactly one
    _large("offset", nullable=True),
    _text("scales", nullable=True),  # JSON list, where there is not exactly one
    _text("offsets", nullable=True),
    _integer("master", nullable=True),  # a slot
    _reference("group_row", "run_groups.id", nullable=True),
    _text("reason", nullable=True),
    sa.Column("noise_db", Real, nullable=True),
    sa.Column("own_noise_db", Real, nullable=True),
    sa.Column("price_db", Real, nullable=True),  # the difference, kept because SQL cannot compute with NaN
    sa.Index(None, "slot_id"),
    sa.Index(None, "group_row"),
    _one_of("state", QuantizationState),
    sa.CheckConstraint("scale > 0", name="scale"),
    sa.CheckConstraint('(scale IS NULL) = ("offset" IS NULL)', name="offset"),
    sa.CheckConstraint("scale IS NULL OR scales IS NULL", name="scales"),
    sqlite_with_rowid=False,
)

edges = sa.Table(
    "edges",
    metadata,
    _key("run_id", "runs.id"),
    _number("position"),
    _text("kind"),
    _integer("a"),  # a slot
    _integer("b"),  # a slot
    _text("strength", nullable=True),
    _integer("rule", nullable=True),
    _text("op", nullable=True),
    _reference("group_row", "run_groups.id", nullable=True),
    sa.Index(None, "group_row"),
    _one_of("kind", Kind),
    _one_of("strength", Strength),
    sqlite_with_rowid=False,
)

requantized = sa.Table(
    "requantized",
    metadata,
    _key("run_id", "runs.id"),
    _number("slot_id"),
    _integer("producer_id"),  # a slot
    sa.Column("price_db", Real, nullable=True),
)

events = sa.Table(
    "events",
    metadata,
    _key("run_id", "runs.id"),
    _number("position"),
    _text("message"),
)

findings = sa.Table(
    "findings",
    metadata,
    _key("run_id", "runs.id"),
    _number("position"),
    _text("kind"),
    _text("rule"),
    _text("op"),
    _text("op_type"),
    _text("source"),
    _text("slots"),  # JSON list
    _text("message"),
)

sensitivities = sa.Table(
    "sensitivities",
    metadata,
    _key("run_id", "runs.id"),
    sa.Column("data", Text, primary_key=True),  # digest of the samples that it was measured on, and how
    sa.Column("kind", Text, primary_key=True),
    sa.Column("subject", Text, primary_key=True),  # the name of an op or tensor, the id of a group
    sa.Column("part", Text, primary_key=True),
    sa.Column("output", Text, primary_key=True),  # of the model; empty for all of them together
    sa.Column("noise_db", Real, nullable=False),  # at that output, from that part of that subject's quantization alone
    _one_of("kind", ("op", "tensor", "group")),
    _one_of("part", ("all", "rounding", "clipping", "sharing")),
)
