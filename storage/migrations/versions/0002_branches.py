"""Where messages come from, what readers think of them, the trash, and titles made of keywords.

SQLite changes no constraint of a table, so both are made anew, under other names first: their references to each
other follow when they are renamed.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_CONVERSATION = (
    "id, owner_id, channel, site_id, title, title_source, system_prompt, params, model, pinned, archived, "
    "created_at, updated_at"
)
_MESSAGE = (
    "id, conversation_id, parent_id, seq, role, content, status, finish_reason, model, params, seed, token_ids, "
    "ledger, prompt_tokens, cached_tokens, completion_tokens, ttft_ms, duration_ms, pinned, created_at"
)


def upgrade() -> None:
    """Make both tables anew, move the rows, and create the new one."""
    _create_conversations()
    _create_messages()
    op.execute(f"INSERT INTO new_conversations ({_CONVERSATION}) SELECT {_CONVERSATION} FROM conversations")
    # a parent is older than its children, and comes first
    op.execute(
        f"INSERT INTO new_messages ({_MESSAGE}, origin) SELECT {_MESSAGE}, 'written' FROM messages "
        "ORDER BY conversation_id, seq"
    )
    op.execute(
        "UPDATE new_conversations SET active_leaf_id = "
        "(SELECT active_leaf_id FROM conversations WHERE conversations.id = new_conversations.id)"
    )
    op.execute("UPDATE conversations SET active_leaf_id = NULL")
    op.execute("UPDATE messages SET parent_id = NULL")
    for table in ("messages", "conversations"):
        op.drop_table(table)
        op.rename_table(f"new_{table}", table)
    op.create_index(op.f("ix_conversations_owner_id_updated_at"), "conversations", ["owner_id", "updated_at"])
    op.create_index(op.f("ix_conversations_active_leaf_id"), "conversations", ["active_leaf_id"])
    op.create_index(
        op.f("ix_conversations_owner_id_import_digest"), "conversations", ["owner_id", "import_digest"], unique=True
    )
    op.create_index(op.f("ix_messages_parent_id"), "messages", ["parent_id"])
    op.create_index(op.f("ix_messages_origin_id"), "messages", ["origin_id"])
    _create_feedback()


def _create_conversations() -> None:
    op.create_table(
        "new_conversations",
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("channel", sa.Text, nullable=False),
        sa.Column("site_id", sa.Text),
        sa.Column("title", sa.Text),
        sa.Column("title_source", sa.Text),
        sa.Column("preset", sa.Text),
        sa.Column("system_prompt", sa.Text),
        sa.Column("params", sa.JSON),
        sa.Column("model", sa.Text),
        sa.Column("active_leaf_id", sa.Text),
        sa.Column("pinned", sa.Boolean, nullable=False),
        sa.Column("archived", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("updated_at", sa.DateTime, nullable=False),
        sa.Column("trashed_at", sa.DateTime),
        sa.Column("import_digest", sa.Text),
        sa.CheckConstraint(
            "channel IN ('ui', 'widget', 'api', 'import', 'terminal')",
            name=op.f("ck_conversations_channel"),
        ),
        sa.CheckConstraint(
            "title_source IN ('first_message', 'keywords', 'user', 'import')",
            name=op.f("ck_conversations_title_source"),
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_conversations")),
        sa.UniqueConstraint("id", name=op.f("uq_conversations_id")),
        sa.ForeignKeyConstraint(["active_leaf_id"], ["new_messages.id"], name=op.f("fk_conversations_active_leaf_id")),
    )


def _create_messages() -> None:
    op.create_table(
        "new_messages",
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("conversation_id", sa.Text, nullable=False),
        sa.Column("parent_id", sa.Text),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("origin", sa.Text, nullable=False),
        sa.Column("origin_id", sa.Text),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("finish_reason", sa.Text),
        sa.Column("error", sa.Text),
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
            "origin IN ('written', 'edited', 'continued', 'copied', 'imported')",
            name=op.f("ck_messages_origin"),
        ),
        sa.CheckConstraint(
            "status IN ('streaming', 'complete', 'stopped', 'interrupted', 'error')",
            name=op.f("ck_messages_status"),
        ),
        sa.CheckConstraint(
            "finish_reason IN ('stop', 'length', 'cancelled', 'error')",
            name=op.f("ck_messages_finish_reason"),
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_messages")),
        sa.UniqueConstraint("conversation_id", "seq", name=op.f("uq_messages_conversation_id_seq")),
        sa.UniqueConstraint("id", name=op.f("uq_messages_id")),
        sa.ForeignKeyConstraint(
            ["conversation_id"],
            ["new_conversations.id"],
            name=op.f("fk_messages_conversation_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["parent_id"], ["new_messages.id"], name=op.f("fk_messages_parent_id")),
        sa.ForeignKeyConstraint(
            ["origin_id"], ["new_messages.id"], name=op.f("fk_messages_origin_id"), ondelete="SET NULL"
        ),
    )


def _create_feedback() -> None:
    op.create_table(
        "feedback",
        sa.Column("message_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("rating", sa.Integer),
        sa.Column("comment", sa.Text),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("updated_at", sa.DateTime, nullable=False),
        sa.CheckConstraint("rating IN (-1, 1)", name=op.f("ck_feedback_rating")),
        sa.PrimaryKeyConstraint("message_id", "user_id", name=op.f("pk_feedback")),
        sa.ForeignKeyConstraint(
            ["message_id"], ["messages.id"], name=op.f("fk_feedback_message_id"), ondelete="CASCADE"
        ),
    )
