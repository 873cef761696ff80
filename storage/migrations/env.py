"""What Alembic runs: it works in the transaction that Database.migrate() has begun."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
