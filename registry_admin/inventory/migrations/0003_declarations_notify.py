"""On PostgreSQL, whoever changes a declaration, also by SQL, wakes the watcher. What the mirror writes does not."""

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

CHANNEL = "registry_admin_declarations"
# What is declared, and not what syncing writes down beside it.
DECLARED = {
    "inventory_service": (
        "name, tags, meta, enabled, check_kind, check_path, check_scheme, check_interval, check_timeout, deregister_after"
    ),
    "inventory_instance": "service_id, address, port, consul_id, weight, extra_tags, extra_meta, enabled",
}


def add_triggers(_apps: object, schema_editor: BaseDatabaseSchemaEditor) -> None:
    if schema_editor.connection.vendor != "postgresql":
        return
    schema_editor.execute(
        "CREATE FUNCTION inventory_declarations_changed() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN PERFORM pg_notify('{CHANNEL}', ''); RETURN NULL; END $$"
    )
    for table, columns in DECLARED.items():
        schema_editor.execute(
            f"CREATE TRIGGER declarations_changed AFTER INSERT OR DELETE OR TRUNCATE OR UPDATE OF {columns} ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION inventory_declarations_changed()"
        )


def drop_triggers(_apps: object, schema_editor: BaseDatabaseSchemaEditor) -> None:
    if schema_editor.connection.vendor != "postgresql":
        return
    for table in DECLARED:
        schema_editor.execute(f"DROP TRIGGER declarations_changed ON {table}")
    schema_editor.execute("DROP FUNCTION inventory_declarations_changed()")


class Migration(migrations.Migration):
    dependencies = [("inventory", "0002_reconciler")]

    operations = [migrations.RunPython(add_triggers, drop_triggers)]
