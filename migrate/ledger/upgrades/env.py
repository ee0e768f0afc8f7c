"""What Alembic runs to upgrade a ledger: on the connection that `migrate.ledger.upgrade` hands over, in its transaction."""

from alembic import context

from migrate.ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=context.config.attributes["connection"].dialect.name == "sqlite",
)
context.run_migrations()
