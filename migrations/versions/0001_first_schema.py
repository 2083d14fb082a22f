"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

STATE = (
    "state = 'FP32' OR state = 'INITIAL' OR state = 'ACTIVATED' OR state = 'SLAVE' OR state = 'FIXED' OR "
    "state = 'PASSIVE' OR state = 'NEVER_RUN' OR state = 'EMPTY' OR state = 'ALL_ZERO' OR state = 'CONSTANT' OR "
    "state = 'DENORMAL' OR state = 'NONFINITE'"
)

VIEWS = {
    "slot_scales": """
        SELECT q.run_id, q.slot_id, t.name AS tensor, s.name AS slot, q.represents, q.role, q.state,
               q.scale, q."offset", q.scales, q.offsets,
               c.bits, c.signed, c."symmetric", c.quant_min, c.quant_max, c.axis, c.power_of_two,
               g.group_id, m.name AS master, q.reason, g.observer, g.observer_reason,
               q.noise_db, q.own_noise_db, q.price_db
        FROM tqcs q
        JOIN slots s ON s.id = q.slot_id
        JOIN tensors t ON t.id = s.tensor_id
        LEFT JOIN run_schemes c ON c.run_id = q.run_id AND c.number = q.scheme
        LEFT JOIN run_groups g ON g.id = q.group_row
        LEFT JOIN slots m ON m.id = q.master
    """,
    "tensor_scales": """
        SELECT run_id, slot_id, tensor, slot, role, state, scale, "offset", scales, offsets,
               bits, signed, "symmetric", quant_min, quant_max, axis, power_of_two,
               group_id, reason, observer, observer_reason, noise_db, own_noise_db, price_db
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
               c.bits, c.signed, c."symmetric",
               (SELECT count(*) FROM tqcs m
                WHERE m.group_row = g.id) AS slot_count,
               (SELECT count(*) FROM tqcs m
                WHERE m.group_row = g.id AND m.represents) AS tensor_count,
               (SELECT max(m.price_db) FROM tqcs m
                WHERE m.group_row = g.id) AS price_db,
               g.observer, g.observer_reason
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
    "run_summaries": """
        SELECT r.id AS run_id, r.name, m.id AS model_id, m.name AS model_name, m.path AS model_path,
               m.fingerprint AS model_fingerprint, r.calibration_id, r.samples, r.target, r.target_version, r.observer,
               r.settings, r.created, r.version
        FROM runs r
        JOIN models m ON m.id = r.model_id
    """,
    "compared_scales": """
        SELECT a.run_id AS run_a, b.run_id AS run_b, t.name AS tensor, s.name AS slot,
               a.state AS state_a, b.state AS state_b, a.scale AS scale_a, b.scale AS scale_b,
               a."offset" AS offset_a, b."offset" AS offset_b, a.scales AS scales_a, b.scales AS scales_b,
               a.noise_db AS noise_db_a, b.noise_db AS noise_db_b,
               CASE WHEN a.noise_db BETWEEN -1e300 AND 1e300 AND b.noise_db BETWEEN -1e300 AND 1e300
                    THEN b.noise_db - a.noise_db END AS damage_db
        FROM tqcs a
        JOIN tqcs b ON b.slot_id = a.slot_id
        JOIN slots s ON s.id = a.slot_id
        JOIN tensors t ON t.id = s.tensor_id
        WHERE a.represents
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
    "findings",
    "requantized",
    "run_groups",
    "run_rules",
    "run_schemes",
    "sensitivities",
    "edges",
    "tqcs",
)


def _create_tables() -> None:
    op.create_table(
        "models",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("fingerprint", Text, nullable=False),
        sa.Column("name", Text, nullable=False),
        sa.Column("path", Text, nullable=True),
        sa.Column("opset", sa.Integer(), nullable=False),
        sa.Column("inputs", Text, nullable=False),
        sa.Column("outputs", Text, nullable=False),
        sa.Column("served", Text, nullable=True),
        sa.Column("parent_id", sa.Integer(), nullable=True),
        sa.Column("derivation", Text, nullable=True),
        sa.Column("created", sa.DateTime(), server_default=sa.text("CURRENT_TIMESTAMP"), nullable=False),
        sa.CheckConstraint("opset >= 0", name=op.f("ck_models_opset")),
        sa.ForeignKeyConstraint(
            ["parent_id"], ["models.id"], name=op.f("fk_models_parent_id_models"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
        sa.UniqueConstraint("fingerprint", name=op.f("uq_models_fingerprint")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_models_parent_id"), "models", ["parent_id"], unique=False)
    op.create_table(
        "bias_magnitudes",
        sa.Column("model_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tensor", Text, nullable=False),
        sa.Column("magnitudes", Text, nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name=op.f("fk_bias_magnitudes_model_id_models"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("model_id", "position", name=op.f("pk_bias_magnitudes")),
    )
    op.create_table(
        "calibrations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("identity", Text, nullable=False),
        sa.Column("data_digest", Text, nullable=True),
        sa.Column("preprocessing", Text, nullable=True),
        sa.Column("steps", sa.Integer(), nullable=True),
        sa.Column("batch_size", sa.Integer(), nullable=True),
        sa.Column("runner", Text, nullable=True),
        sa.Column("capability", Text, nullable=True),
        sa.Column("shard", Text, nullable=True),
        sa.Column("input_shapes", Text, nullable=False),
        sa.Column("passes", Text, nullable=True),
        sa.Column("status", Text, nullable=False),
        sa.Column("version", Text, nullable=False),
        sa.Column("samples", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("inferences", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created", sa.DateTime(), server_default=sa.text("CURRENT_TIMESTAMP"), nullable=False),
        sa.Column("updated", sa.DateTime(), server_default=sa.text("CURRENT_TIMESTAMP"), nullable=False),
        sa.CheckConstraint("status = 'partial' OR status = 'complete'", name=op.f("ck_calibrations_status")),
        sa.CheckConstraint("batch_size >= 1", name=op.f("ck_calibrations_batch_size")),
        sa.CheckConstraint("inferences >= 0", name=op.f("ck_calibrations_inferences")),
        sa.CheckConstraint("samples >= 0", name=op.f("ck_calibrations_samples")),
        sa.CheckConstraint("steps >= 1", name=op.f("ck_calibrations_steps")),
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
        sa.Column("tensor", Text, nullable=False),
        sa.Column("digest", Text, nullable=False),
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
        sa.Column("name", Text, nullable=False),
        sa.Column("type", Text, nullable=False),
        sa.Column("domain", Text, nullable=False),
        sa.Column("input_count", sa.Integer(), nullable=False),
        sa.Column("output_count", sa.Integer(), nullable=False),
        sa.Column("attributes", Text, nullable=False),
        sa.Column("excluded", Text, nullable=True),
        sa.Column("origins", Text, nullable=False),
        sa.CheckConstraint("input_count >= 0", name=op.f("ck_ops_input_count")),
        sa.CheckConstraint("output_count >= 0", name=op.f("ck_ops_output_count")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_ops_model_id_models"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ops")),
        sa.UniqueConstraint("model_id", "name", name=op.f("uq_ops_model_id_name")),
    )
    op.create_table(
        "tensors",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("name", Text, nullable=False),
        sa.Column("dtype", Text, nullable=False),
        sa.Column("shape", Text, nullable=True),
        sa.Column("constant", sa.Boolean(), nullable=False),
        sa.Column("values", Text, nullable=True),
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
        sa.Column("tensor", Text, nullable=False),
        sa.Column("method", Text, nullable=False),
        sa.Column("bits", sa.Integer(), nullable=False),
        sa.Column("signed", sa.Boolean(), nullable=False),
        sa.Column("symmetric", sa.Boolean(), nullable=False),
        sa.Column("quant_min", sa.BigInteger(), nullable=False),
        sa.Column("quant_max", sa.BigInteger(), nullable=False),
        sa.Column("axis", sa.Integer(), nullable=True),
        sa.Column("power_of_two", sa.Boolean(), nullable=False),
        sa.Column("scales", Text, nullable=False),
        sa.Column("noise_db", sa.Double(), nullable=False),
        sa.CheckConstraint("bits BETWEEN 1 AND 64", name=op.f("ck_weight_solutions_bits")),
        sa.CheckConstraint("quant_min < quant_max", name=op.f("ck_weight_solutions_range")),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name=op.f("fk_weight_solutions_model_id_models"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("model_id", "position", name=op.f("pk_weight_solutions")),
    )
    op.create_table(
        "calibration_samples",
        sa.Column("calibration_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sample", Text, nullable=False),
        sa.Column("multiplicity", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=True),
        sa.Column("origin", Text, nullable=True),
        sa.CheckConstraint("multiplicity >= 1", name=op.f("ck_calibration_samples_multiplicity")),
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
        sa.Column("owner", Text, nullable=False),
        sa.Column("host", Text, nullable=False),
        sa.Column("process_space", Text, nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("process_start", Text, nullable=True),
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
        sa.Column("name", Text, nullable=True),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("calibration_id", sa.Integer(), nullable=True),
        sa.Column("samples", sa.BigInteger(), nullable=False),
        sa.Column("target", Text, nullable=False),
        sa.Column("target_version", Text, nullable=False),
        sa.Column("observer", Text, nullable=True),
        sa.Column("settings", Text, nullable=False),
        sa.Column("identity", Text, nullable=False),
        sa.Column("version", Text, nullable=False),
        sa.Column("created", sa.DateTime(), server_default=sa.text("CURRENT_TIMESTAMP"), nullable=False),
        sa.CheckConstraint("samples >= 0", name=op.f("ck_runs_samples")),
        sa.ForeignKeyConstraint(
            ["calibration_id"],
            ["calibrations.id"],
            name=op.f("fk_runs_calibration_id_calibrations"),
            ondelete="NO ACTION",
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
        sa.Column("name", Text, nullable=False),
        sa.Column("tensor_id", sa.Integer(), nullable=False),
        sa.Column("op_id", sa.Integer(), nullable=True),
        sa.Column("side", Text, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.CheckConstraint("side = 'in' OR side = 'out' OR side = 'const'", name=op.f("ck_slots_side")),
        sa.CheckConstraint("position >= 0", name=op.f("ck_slots_position")),
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
        sa.Column("tensor", Text, nullable=False),
        sa.Column("digest", Text, nullable=False),
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
        sa.Column("message", Text, nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_events_run_id_runs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "position", name=op.f("pk_events")),
    )
    op.create_table(
        "findings",
        sa.Column("run_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", Text, nullable=False),
        sa.Column("rule", Text, nullable=False),
        sa.Column("op", Text, nullable=False),
        sa.Column("op_type", Text, nullable=False),
        sa.Column("source", Text, nullable=False),
        sa.Column("slots", Text, nullable=False),
        sa.Column("message", Text, nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_findings_run_id_runs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "position", name=op.f("pk_findings")),
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
        sa.Column("group_id", Text, nullable=False),
        sa.Column("master", sa.Integer(), nullable=False),
        sa.Column("scheme", sa.Integer(), nullable=False),
        sa.Column("fixed", Text, nullable=True),
        sa.Column("derived", Text, nullable=True),
        sa.Column("observer", Text, nullable=True),
        sa.Column("observer_reason", Text, nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_groups_run_id_runs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run_groups")),
        sa.UniqueConstraint("run_id", "group_id", name=op.f("uq_run_groups_run_id_group_id")),
    )
    op.create_table(
        "run_rules",
        sa.Column("run_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("rule", Text, nullable=True),
        sa.Column("op_type", Text, nullable=True),
        sa.Column("source", Text, nullable=True),
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
        sa.Column("quant_min", sa.BigInteger(), nullable=False),
        sa.Column("quant_max", sa.BigInteger(), nullable=False),
        sa.Column("axis", sa.Integer(), nullable=True),
        sa.Column("power_of_two", sa.Boolean(), nullable=False),
        sa.CheckConstraint("bits BETWEEN 1 AND 64", name=op.f("ck_run_schemes_bits")),
        sa.CheckConstraint("quant_min < quant_max", name=op.f("ck_run_schemes_range")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_schemes_run_id_runs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "number", name=op.f("pk_run_schemes")),
    )
    op.create_table(
        "sensitivities",
        sa.Column("run_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("data", Text, nullable=False),
        sa.Column("kind", Text, nullable=False),
        sa.Column("subject", Text, nullable=False),
        sa.Column("part", Text, nullable=False),
        sa.Column("output", Text, nullable=False),
        sa.Column("noise_db", sa.Double(), nullable=False),
        sa.CheckConstraint("kind = 'op' OR kind = 'tensor' OR kind = 'group'", name=op.f("ck_sensitivities_kind")),
        sa.CheckConstraint(
            "part = 'all' OR part = 'rounding' OR part = 'clipping' OR part = 'sharing'",
            name=op.f("ck_sensitivities_part"),
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_sensitivities_run_id_runs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "data", "kind", "subject", "part", "output", name=op.f("pk_sensitivities")),
    )
    op.create_table(
        "edges",
        sa.Column("run_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", Text, nullable=False),
        sa.Column("a", sa.Integer(), nullable=False),
        sa.Column("b", sa.Integer(), nullable=False),
        sa.Column("strength", Text, nullable=True),
        sa.Column("rule", sa.Integer(), nullable=True),
        sa.Column("op", Text, nullable=True),
        sa.Column("group_row", sa.Integer(), nullable=True),
        sa.CheckConstraint(
            "kind = 'same' OR kind = 'tensor' OR kind = 'fixed' OR kind = 'derived' OR kind = 'fused' OR "
            "kind = 'ratio'",
            name=op.f("ck_edges_kind"),
        ),
        sa.CheckConstraint(
            "strength = 'exact' OR strength = 'required' OR strength = 'preferred'", name=op.f("ck_edges_strength")
        ),
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
        sa.Column("role", Text, nullable=False),
        sa.Column("state", Text, nullable=False),
        sa.Column("scheme", sa.Integer(), nullable=True),
        sa.Column("scale", sa.Double(), nullable=True),
        sa.Column("offset", sa.BigInteger(), nullable=True),
        sa.Column("scales", Text, nullable=True),
        sa.Column("offsets", Text, nullable=True),
        sa.Column("master", sa.Integer(), nullable=True),
        sa.Column("group_row", sa.Integer(), nullable=True),
        sa.Column("reason", Text, nullable=True),
        sa.Column("noise_db", sa.Double(), nullable=True),
        sa.Column("own_noise_db", sa.Double(), nullable=True),
        sa.Column("price_db", sa.Double(), nullable=True),
        sa.CheckConstraint(STATE, name=op.f("ck_tqcs_state")),
        sa.CheckConstraint('(scale IS NULL) = ("offset" IS NULL)', name=op.f("ck_tqcs_offset")),
        sa.CheckConstraint("scale > 0", name=op.f("ck_tqcs_scale")),
        sa.CheckConstraint("scale IS NULL OR scales IS NULL", name=op.f("ck_tqcs_scales")),
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
