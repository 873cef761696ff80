"""Conversations and their messages."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "conversations",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("channel", sa.Text, nullable=False),
        sa.Column("site_id", sa.Text),
        sa.Column("title", sa.Text),
        sa.Column("title_source", sa.Text),
        sa.Column("system_prompt", sa.Text),
        sa.Column("params", sa.JSON),
        sa.Column("model", sa.Text),
        sa.Column("active_leaf_id", sa.Text),
        sa.Column("pinned", sa.Boolean, nullable=False),
        sa.Column("archived", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("updated_at", sa.DateTime, nullable=False),
        sa.CheckConstraint(
            "channel IN ('ui', 'widget', 'api', 'import', 'terminal')",
            name=op.f("ck_conversations_channel"),
        ),
        sa.CheckConstraint(
            "title_source IN ('first_message', 'user', 'import')",
            name=op.f("ck_conversations_title_source"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conversations")),
        # SQLite takes a reference to a table that comes later, and could not add it afterwards.
        sa.ForeignKeyConstraint(["active_leaf_id"], ["messages.id"], name=op.f("fk_conversations_active_leaf_id")),
    )
    op.create_index(op.f("ix_conversations_owner_id_updated_at"), "conversations", ["owner_id", "updated_at"])
    op.create_index(op.f("ix_conversations_active_leaf_id"), "conversations", ["active_leaf_id"])
    op.create_table(
        "messages",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("conversation_id", sa.Text, nullable=False),
        sa.Column("parent_id", sa.Text),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("finish_reason", sa.Text),
        sa.Column("model", sa.Text),
        sa.Column("params", sa.JSON),
        sa.Column("seed", sa.BigInteger),
        sa.Column("token_ids", sa.JSON),
        sa.Column("ledger", sa.JSON),
        sa.Column("prompt_tokens", sa.Integer),
        sa.Column("cached_tokens", sa.Integer),
        sa.Column("completion_tokens", sa.Integer),
        sa.Column("ttft_ms", sa.Integer),
        sa.Column("duration_ms", sa.Integer),
        sa.Column("pinned", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.CheckConstraint("role IN ('system', 'user', 'assistant')", name=op.f("ck_messages_role")),
        sa.CheckConstraint(
            "status IN ('streaming', 'complete', 'stopped', 'interrupted', 'error')",
            name=op.f("ck_messages_status"),
        ),
        sa.CheckConstraint(
            "finish_reason IN ('stop', 'length', 'cancelled', 'error')",
            name=op.f("ck_messages_finish_reason"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_messages")),
        sa.UniqueConstraint("conversation_id", "seq", name=op.f("uq_messages_conversation_id_seq")),
        sa.ForeignKeyConstraint(
            ["conversation_id"],
            ["conversations.id"],
            name=op.f("fk_messages_conversation_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["parent_id"], ["messages.id"], name=op.f("fk_messages_parent_id")),
    )
    op.create_index(op.f("ix_messages_parent_id"), "messages", ["parent_id"])
