"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATES = (
    "'FP32', 'INITIAL', 'ACTIVATED', 'SLAVE', 'FIXED', 'PASSIVE', "
    "'NEVER_RUN', 'EMPTY', 'ALL_ZERO', 'CONSTANT', 'DENORMAL', 'NONFINITE'"
)

VIEWS = {
    "slot_scales": """
        SELECT q.run_id, q.slot_id, t.name AS tensor, s.name AS slot, q.represents, q.role, q.state,
               q.scale, q."offset", q.scales, q.offsets,
               c.bits, c.signed, c.symmetric, c.quant_min, c.quant_max, c.axis, c.power_of_two,
               g.group_id, m.name AS master, q.reason, q.noise_db, q.own_noise_db, q.price_db
        FROM tqcs q
        JOIN slots s ON s.id = q.slot_id
        JOIN tensors t ON t.id = s.tensor_id
        LEFT JOIN run_schemes c ON c.run_id = q.run_id AND c.number = q.scheme
        LEFT JOIN run_groups g ON g.id = q.group_row
        LEFT JOIN slots m ON m.id = q.master
    """,
    "tensor_scales": """
        SELECT run_id, slot_id, tensor, slot, role, state, scale, "offset", scales, offsets,
               bits, signed, symmetric, quant_min, quant_max, axis, power_of_two,
               group_id, reason, noise_db, own_noise_db, price_db
        FROM slot_scales WHERE represents
    """,
    "group_members": """
        SELECT g.run_id, g.group_id, s.name AS slot, t.name AS tensor, q.represents, q.state, q.price_db
        FROM tqcs q
        JOIN run_groups g ON g.id = q.group_row
        JOIN slots s ON s.id = q.slot_id
        JOIN tensors t ON t.id = s.tensor_id
    """,
    "shared_groups": """
        SELECT g.run_id, g.group_id, s.name AS master, q.scale, q."offset", q.scales, q.offsets,
               c.bits, c.signed, c.symmetric,
               (SELECT count(*) FROM tqcs m
                WHERE m.group_row = g.id) AS slot_count,
               (SELECT count(*) FROM tqcs m
                WHERE m.group_row = g.id AND m.represents) AS tensor_count,
               (SELECT max(m.price_db) FROM tqcs m
                WHERE m.group_row = g.id) AS price_db
        FROM run_groups g
        JOIN slots s ON s.id = g.master
        JOIN tqcs q ON q.run_id = g.run_id AND q.slot_id = g.master
        JOIN run_schemes c ON c.run_id = g.run_id AND c.number = g.scheme
    """,
    "reasons": """
        SELECT e.run_id, e.position, e.kind, a.name AS a, b.name AS b, r.rule, e.op, r.op_type, e.strength, r.source,
               g.group_id
        FROM edges e
        JOIN slots a ON a.id = e.a
        JOIN slots b ON b.id = e.b
        LEFT JOIN run_rules r ON r.run_id = e.run_id AND r.number = e.rule
        LEFT JOIN run_groups g ON g.id = e.group_row
    """,
    "requantizes": """
        SELECT z.run_id, t.name AS tensor, s.name AS slot, p.name AS producer,
               q.scale, q."offset", q.scales, q.offsets, z.price_db
        FROM requantized z
        JOIN slots s ON s.id = z.slot_id
        JOIN tensors t ON t.id = s.tensor_id
        JOIN slots p ON p.id = z.producer_id
        JOIN tqcs q ON q.run_id = z.run_id AND q.slot_id = z.slot_id
    """,
    "prices": """
        SELECT run_id, 'sharing' AS what, tensor, slot, group_id, price_db
        FROM slot_scales WHERE price_db IS NOT NULL
        UNION ALL
        SELECT run_id, 'requantize', tensor, slot, NULL, price_db
        FROM requantizes WHERE price_db IS NOT NULL
    """,
}


def upgrade() -> None:
    _create_tables()
    for name, select in VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {select}")


def downgrade() -> None:
    for name in reversed(VIEWS):
        op.execute(f"DROP VIEW {name}")
    for table in reversed(TABLES):
        op.drop_table(table)


TABLES = (
    "models",
    "bias_magnitudes",
    "calibrations",
    "constant_statistics",
    "ops",
    "tensors",
    "weight_solutions",
    "calibration_samples",
    "leases",
    "runs",
    "slots",
    "statistics",
    "events",
    "requantized",
    "run_groups",
    "run_rules",
    "run_schemes",
    "edges",
    "tqcs",
)


def _create_tables() -> None:

    op.create_table(
        "models",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=True),
        sa.Column("opset", sa.Integer(), nullable=False),
        sa.Column("inputs", sa.Text(), nullable=False),
        sa.Column("outputs", sa.Text(), nullable=False),
        sa.Column("created", sa.DateTime(), server_default=sa.text("CURRENT_TIMESTAMP"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
        sa.UniqueConstraint("fingerprint", name=op.f("uq_models_fingerprint")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "bias_magnitudes",
        sa.Column("model_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tensor", sa.Text(), nullable=False),
        sa.Column("magnitudes", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name=op.f("fk_bias_magnitudes_model_id_models"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("model_id", "position", name=op.f("pk_bias_magnitudes")),
    )
    op.create_table(
        "calibrations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("identity", sa.Text(), nullable=False),
        sa.Column("data_digest", sa.Text(), nullable=True),
        sa.Column("preprocessing", sa.Text(), nullable=True),
        sa.Column("steps", sa.Integer(), nullable=True),
        sa.Column("batch_size", sa.Integer(), nullable=True),
        sa.Column("runner", sa.Text(), nullable=True),
        sa.Column("capability", sa.Text(), nullable=True),
        sa.Column("input_shapes", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("samples", sa.Integer(), server_default="0", nullable=False),
        sa.Column("inferences", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created", sa.DateTime(), server_default=sa.text("CURRENT_TIMESTAMP"), nullable=False),
        sa.Column("updated", sa.DateTime(), server_default=sa.text("CURRENT_TIMESTAMP"), nullable=False),
        sa.CheckConstraint("status IN ('partial', 'complete')", name=op.f("ck_calibrations_status")),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name=op.f("fk_calibrations_model_id_models"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_calibrations")),
        sa.UniqueConstraint("identity", name=op.f("uq_calibrations_identity")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_calibrations_model_id"), "calibrations", ["model_id"], unique=False)
    op.create_table(
        "constant_statistics",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("tensor", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("blob", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name=op.f("fk_constant_statistics_model_id_models"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_constant_statistics")),
        sa.UniqueConstraint("model_id", "tensor", name=op.f("uq_constant_statistics_model_id_tensor")),
    )
    op.create_table(
        "ops",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("input_count", sa.Integer(), nullable=False),
        sa.Column("output_count", sa.Integer(), nullable=False),
        sa.Column("attributes", sa.Text(), nullable=False),
        sa.Column("excluded", sa.Text(), nullable=True),
        sa.Column("origins", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_ops_model_id_models"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ops")),
        sa.UniqueConstraint("model_id", "name", name=op.f("uq_ops_model_id_name")),
    )
    op.create_table(
        "tensors",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("dtype", sa.Text(), nullable=False),
        sa.Column("shape", sa.Text(), nullable=True),
        sa.Column("constant", sa.Boolean(), nullable=False),
        sa.Column("values", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name=op.f("fk_tensors_model_id_models"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tensors")),
        sa.UniqueConstraint("model_id", "name", name=op.f("uq_tensors_model_id_name")),
    )
    op.create_table(
        "weight_solutions",
        sa.Column("model_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tensor", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("bits", sa.Integer(), nullable=False),
        sa.Column("signed", sa.Boolean(), nullable=False),
        sa.Column("symmetric", sa.Boolean(), nullable=False),
        sa.Column("quant_min", sa.Integer(), nullable=False),
        sa.Column("quant_max", sa.Integer(), nullable=False),
        sa.Column("axis", sa.Integer(), nullable=True),
        sa.Column("power_of_two", sa.Boolean(), nullable=False),
        sa.Column("scales", sa.Text(), nullable=False),
        sa.Column("noise_db", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name=op.f("fk_weight_solutions_model_id_models"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("model_id", "position", name=op.f("pk_weight_solutions")),
    )
    op.create_table(
        "calibration_samples",
        sa.Column("calibration_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sample", sa.Text(), nullable=False),
        sa.Column("multiplicity", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["calibration_id"],
            ["calibrations.id"],
            name=op.f("fk_calibration_samples_calibration_id_calibrations"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("calibration_id", "sample", name=op.f("pk_calibration_samples")),
    )
    op.create_table(
        "leases",
        sa.Column("calibration_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("process_space", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("process_start", sa.Text(), nullable=True),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("heartbeat", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["calibration_id"],
            ["calibrations.id"],
            name=op.f("fk_leases_calibration_id_calibrations"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("calibration_id", name=op.f("pk_leases")),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("calibration_id", sa.Integer(), nullable=True),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("target_version", sa.Text(), nullable=False),
        sa.Column("observer", sa.Text(), nullable=True),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("identity", sa.Text(), nullable=False),
        sa.Column("created", sa.DateTime(), server_default=sa.text("CURRENT_TIMESTAMP"), nullable=False),
        sa.ForeignKeyConstraint(
            ["calibration_id"],
            ["calibrations.id"],
            name=op.f("fk_runs_calibration_id_calibrations"),
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_runs_model_id_models"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
        sa.UniqueConstraint("name", name=op.f("uq_runs_name")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_runs_calibration_id"), "runs", ["calibration_id"], unique=False)
    op.create_index(op.f("ix_runs_identity"), "runs", ["identity"], unique=False)
    op.create_index(op.f("ix_runs_model_id"), "runs", ["model_id"], unique=False)
    op.create_table(
        "slots",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("tensor_id", sa.Integer(), nullable=False),
        sa.Column("op_id", sa.Integer(), nullable=True),
        sa.Column("side", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.CheckConstraint("side IN ('in', 'out', 'const')", name=op.f("ck_slots_side")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_slots_model_id_models"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["op_id"], ["ops.id"], name=op.f("fk_slots_op_id_ops"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["tensor_id"], ["tensors.id"], name=op.f("fk_slots_tensor_id_tensors"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_slots")),
        sa.UniqueConstraint("model_id", "name", name=op.f("uq_slots_model_id_name")),
    )
    op.create_index(op.f("ix_slots_op_id"), "slots", ["op_id"], unique=False)
    op.create_index(op.f("ix_slots_tensor_id"), "slots", ["tensor_id"], unique=False)
    op.create_table(
        "statistics",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("calibration_id", sa.Integer(), nullable=False),
        sa.Column("tensor", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("blob", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["calibration_id"],
            ["calibrations.id"],
            name=op.f("fk_statistics_calibration_id_calibrations"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_statistics")),
        sa.UniqueConstraint("calibration_id", "tensor", name=op.f("uq_statistics_calibration_id_tensor")),
    )
    op.create_table(
        "events",
        sa.Column("run_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_events_run_id_runs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "position", name=op.f("pk_events")),
    )
    op.create_table(
        "requantized",
        sa.Column("run_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("slot_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("producer_id", sa.Integer(), nullable=False),
        sa.Column("price_db", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_requantized_run_id_runs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "slot_id", name=op.f("pk_requantized")),
    )
    op.create_table(
        "run_groups",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("group_id", sa.Text(), nullable=False),
        sa.Column("master", sa.Integer(), nullable=False),
        sa.Column("scheme", sa.Integer(), nullable=False),
        sa.Column("fixed", sa.Text(), nullable=True),
        sa.Column("derived", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_groups_run_id_runs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run_groups")),
        sa.UniqueConstraint("run_id", "group_id", name=op.f("uq_run_groups_run_id_group_id")),
    )
    op.create_table(
        "run_rules",
        sa.Column("run_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("rule", sa.Text(), nullable=True),
        sa.Column("op_type", sa.Text(), nullable=True),
        sa.Column("source", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_rules_run_id_runs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "number", name=op.f("pk_run_rules")),
    )
    op.create_table(
        "run_schemes",
        sa.Column("run_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("bits", sa.Integer(), nullable=False),
        sa.Column("signed", sa.Boolean(), nullable=False),
        sa.Column("symmetric", sa.Boolean(), nullable=False),
        sa.Column("quant_min", sa.Integer(), nullable=False),
        sa.Column("quant_max", sa.Integer(), nullable=False),
        sa.Column("axis", sa.Integer(), nullable=True),
        sa.Column("power_of_two", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_schemes_run_id_runs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "number", name=op.f("pk_run_schemes")),
    )
    op.create_table(
        "edges",
        sa.Column("run_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("a", sa.Integer(), nullable=False),
        sa.Column("b", sa.Integer(), nullable=False),
        sa.Column("strength", sa.Text(), nullable=True),
        sa.Column("rule", sa.Integer(), nullable=True),
        sa.Column("op", sa.Text(), nullable=True),
        sa.Column("group_row", sa.Integer(), nullable=True),
        sa.CheckConstraint("kind IN ('same', 'tensor', 'fixed', 'derived', 'fused')", name=op.f("ck_edges_kind")),
        sa.CheckConstraint("strength IN ('exact', 'required', 'preferred')", name=op.f("ck_edges_strength")),
        sa.ForeignKeyConstraint(
            ["group_row"], ["run_groups.id"], name=op.f("fk_edges_group_row_run_groups"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_edges_run_id_runs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "position", name=op.f("pk_edges")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_edges_group_row"), "edges", ["group_row"], unique=False)
    op.create_table(
        "tqcs",
        sa.Column("run_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("slot_id", sa.Integer(), nullable=False),
        sa.Column("represents", sa.Boolean(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("scheme", sa.Integer(), nullable=True),
        sa.Column("scale", sa.Double(), nullable=True),
        sa.Column("offset", sa.Integer(), nullable=True),
        sa.Column("scales", sa.Text(), nullable=True),
        sa.Column("offsets", sa.Text(), nullable=True),
        sa.Column("master", sa.Integer(), nullable=True),
        sa.Column("group_row", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("noise_db", sa.Double(), nullable=True),
        sa.Column("own_noise_db", sa.Double(), nullable=True),
        sa.Column("price_db", sa.Double(), nullable=True),
        sa.CheckConstraint(f"state IN ({STATES})", name=op.f("ck_tqcs_state")),
        sa.ForeignKeyConstraint(
            ["group_row"], ["run_groups.id"], name=op.f("fk_tqcs_group_row_run_groups"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_tqcs_run_id_runs"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["slot_id"], ["slots.id"], name=op.f("fk_tqcs_slot_id_slots"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "slot_id", name=op.f("pk_tqcs")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_tqcs_group_row"), "tqcs", ["group_row"], unique=False)
    op.create_index(op.f("ix_tqcs_slot_id"), "tqcs", ["slot_id"], unique=False)
