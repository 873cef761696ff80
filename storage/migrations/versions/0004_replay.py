"""What a reply can be had again from, keys of repeated requests, recaps, presets of owners, and two indexes."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the columns, the table and the indexes."""
    op.add_column("conversations", sa.Column("recap", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("messages", sa.Column("idempotency_key", sa.Text))
    op.add_column("messages", sa.Column("model_digest", sa.Text))
    op.add_column("messages", sa.Column("prompt_shared", sa.Integer))
    op.add_column("messages", sa.Column("prompt_ids", sa.JSON))
    op.create_index(
        op.f("ix_messages_conversation_id_idempotency_key"),
        "messages",
        ["conversation_id", "idempotency_key"],
        unique=True,
    )
    op.create_index(op.f("ix_messages_created_at_role_model"), "messages", ["created_at", "role", "model"])
    op.drop_index(op.f("ix_conversations_owner_id_updated_at"), "conversations")
    op.create_index(
        op.f("ix_conversations_owner_id_archived_trashed_at_pinned_updated_at"),
        "conversations",
        ["owner_id", "archived", "trashed_at", "pinned", "updated_at"],
    )
    op.create_table(
        "presets",
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("system_prompt", sa.Text),
        sa.Column("params", sa.JSON, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("updated_at", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("owner_id", "name", name=op.f("pk_presets")),
    )
