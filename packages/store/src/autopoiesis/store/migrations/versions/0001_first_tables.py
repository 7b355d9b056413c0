"""The first tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

SCHEMA, SEALED = "autopoiesis", "sealed"
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.execute(f"CREATE SCHEMA {SEALED}")
    op.execute(f"CREATE SEQUENCE {SCHEMA}.epochs")
    _policies()
    _traces()
    _activations()
    _evolution()
    _outbox()


def _policies() -> None:
    op.create_table(
        "policies",
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("api", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("parents", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("created", MOMENT, server_default=sa.func.now(), nullable=False),
        sa.CheckConstraint("kind IN ('dispatch', 'plan')", name="ck_policies_kind"),
        sa.PrimaryKeyConstraint("hash", name="pk_policies"),
        schema=SCHEMA,
    )
    op.create_table(
        "evaluations",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("candidate", sa.Text(), nullable=False),
        sa.Column("snapshot", sa.Text(), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column("simulator", sa.Text(), nullable=False),
        sa.Column("incumbent", sa.Text(), nullable=False),
        sa.Column("cycle", sa.Text(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("gate", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("gain", sa.Double(), nullable=False),
        sa.Column("gain_low", sa.Double(), nullable=False),
        sa.Column("gain_high", sa.Double(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("judgement", postgresql.JSONB(), nullable=False),
        sa.Column("created", MOMENT, server_default=sa.func.now(), nullable=False),
        sa.CheckConstraint("verdict IN ('promote', 'advise', 'reject')", name="ck_evaluations_verdict"),
        sa.PrimaryKeyConstraint("id", name="pk_evaluations"),
        sa.UniqueConstraint(
            "candidate", "snapshot", "simulator", name="uq_evaluations_candidate_snapshot_simulator"
        ),
        schema=SCHEMA,
    )
    op.create_index("ix_evaluations_sealed_gate", "evaluations", ["sealed", "gate"], schema=SCHEMA)
    op.create_index(
        "ix_evaluations_scope_kind_created", "evaluations", ["scope", "kind", "created"], schema=SCHEMA
    )


def _traces() -> None:
    op.create_table(
        "snapshots",
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("start_unix_s", sa.Double(), nullable=False),
        sa.Column("cut_unix_s", sa.Double(), nullable=False),
        sa.Column("end_unix_s", sa.Double(), nullable=False),
        sa.Column("arrivals", sa.Integer(), nullable=False),
        sa.Column("sealed_hash", sa.Text(), nullable=False),
        sa.Column("sealed_arrivals", sa.Integer(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("created", MOMENT, server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("hash", name="pk_snapshots"),
        schema=SCHEMA,
    )
    op.create_index("ix_snapshots_scope_created", "snapshots", ["scope", "created"], schema=SCHEMA)
    op.create_table(
        "snapshots",
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("arrivals", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("created", MOMENT, server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("hash", name="pk_snapshots"),
        schema=SEALED,
    )
    op.create_index("ix_snapshots_scope_created", "snapshots", ["scope", "created"], schema=SEALED)
    op.create_table(
        "segments",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("start_unix_s", sa.Double(), nullable=False),
        sa.Column("end_unix_s", sa.Double(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("details", postgresql.JSONB(), nullable=False),
        sa.Column("created", MOMENT, server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_segments"),
        sa.UniqueConstraint("path", name="uq_segments_path"),
        schema=SCHEMA,
    )
    op.create_index(
        "ix_segments_scope_content_end_unix_s", "segments", ["scope", "content", "end_unix_s"], schema=SCHEMA
    )


def _activations() -> None:
    op.create_table(
        "activations",
        sa.Column("epoch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("rollback", sa.Boolean(), nullable=False),
        sa.Column("replaces", sa.BigInteger(), nullable=True),
        sa.Column("falls_back_to", sa.BigInteger(), nullable=True),
        sa.Column("evaluation", sa.BigInteger(), nullable=True),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("created", MOMENT, server_default=sa.func.now(), nullable=False),
        sa.ForeignKeyConstraint(
            ["evaluation"], ["autopoiesis.evaluations.id"], name="fk_activations_evaluation_evaluations"
        ),
        sa.ForeignKeyConstraint(
            ["falls_back_to"],
            ["autopoiesis.activations.epoch"],
            name="fk_activations_falls_back_to_activations",
        ),
        sa.ForeignKeyConstraint(["hash"], ["autopoiesis.policies.hash"], name="fk_activations_hash_policies"),
        sa.ForeignKeyConstraint(
            ["replaces"], ["autopoiesis.activations.epoch"], name="fk_activations_replaces_activations"
        ),
        sa.PrimaryKeyConstraint("epoch", name="pk_activations"),
        schema=SCHEMA,
    )
    op.create_index(
        "ix_activations_scope_kind_epoch", "activations", ["scope", "kind", "epoch"], schema=SCHEMA
    )
    op.create_table(
        "active",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["epoch"], ["autopoiesis.activations.epoch"], name="fk_active_epoch_activations"
        ),
        sa.PrimaryKeyConstraint("scope", "kind", name="pk_active"),
        schema=SCHEMA,
    )
    op.create_table(
        "control",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("changed", MOMENT, server_default=sa.func.now(), nullable=False),
        sa.CheckConstraint("mode IN ('off', 'advise', 'auto', 'paused')", name="ck_control_mode"),
        sa.PrimaryKeyConstraint("scope", name="pk_control"),
        schema=SCHEMA,
    )


def _evolution() -> None:
    op.create_table(
        "completions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("cycle", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("prompt_hash", sa.Text(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("completion", sa.Text(), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        sa.Column("cost", sa.Double(), nullable=False),
        sa.Column("duration_s", sa.Double(), nullable=False),
        sa.Column("candidate", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("created", MOMENT, server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_completions"),
        schema=SCHEMA,
    )
    op.create_index("ix_completions_cycle", "completions", ["cycle"], schema=SCHEMA)
    op.create_index(
        "ix_completions_scope_kind_created", "completions", ["scope", "kind", "created"], schema=SCHEMA
    )
    op.create_table(
        "archive",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("cell", sa.Text(), nullable=False),
        sa.Column("features", postgresql.JSONB(), nullable=False),
        sa.Column("snapshot", sa.Text(), nullable=False),
        sa.Column("simulator", sa.Text(), nullable=False),
        sa.Column("created", MOMENT, server_default=sa.func.now(), nullable=False),
        sa.ForeignKeyConstraint(["hash"], ["autopoiesis.policies.hash"], name="fk_archive_hash_policies"),
        sa.PrimaryKeyConstraint("scope", "kind", "hash", name="pk_archive"),
        schema=SCHEMA,
    )
    op.create_index("ix_archive_scope_kind_score", "archive", ["scope", "kind", "score"], schema=SCHEMA)


def _outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("headers", postgresql.JSONB(), nullable=False),
        sa.Column("created", MOMENT, server_default=sa.func.now(), nullable=False),
        sa.Column("published", MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sa.UniqueConstraint("message_id", name="uq_outbox_message_id"),
        schema=SCHEMA,
    )
    op.create_index(
        "ix_outbox_waiting",
        "outbox",
        ["owner", "id"],
        schema=SCHEMA,
        postgresql_where=sa.text("published IS NULL"),
    )
