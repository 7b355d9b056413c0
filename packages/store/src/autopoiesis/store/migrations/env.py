"""Run by Alembic inside `upgrade`'s transaction."""

from alembic import context

from autopoiesis.store.models import SCHEMA, Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    include_schemas=True,
    version_table_schema=SCHEMA,
)
context.run_migrations()
