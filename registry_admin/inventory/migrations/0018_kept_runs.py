"""Runs and confirmed halts belong to the audit trail: on PostgreSQL who began a run and how it ended can't be changed.

What 0016 does for rows that are only added, for rows that are completed: a run's row is written before its plan is
carried out. Watchers' runs are as many as there are changes, and are deleted as early as REGISTRY_HISTORY_KEPT says.
"""

from django.db import migrations

TABLES = ("inventory_syncrun", "inventory_evictionhalt")
FUNCTION = """
CREATE FUNCTION inventory_keep_run() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.outcome IN ('running', 'interrupted', 'abandoned')
        AND (NEW.id, NEW.trigger, NEW.actor, NEW.holder, NEW.scope, NEW.started_at)
            IS NOT DISTINCT FROM (OLD.id, OLD.trigger, OLD.actor, OLD.holder, OLD.scope, OLD.started_at) THEN
        RETURN NEW;
    ELSIF TG_OP = 'DELETE' AND (OLD.trigger = 'watch' OR OLD.started_at < now() - interval '30 days') THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'The audit trail is kept: % of % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE FUNCTION inventory_keep_halt() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.confirmed_at IS NULL OR (TG_OP = 'DELETE' AND OLD.confirmed_at < now() - interval '30 days') THEN
        RETURN COALESCE(NEW, OLD);
    ELSIF TG_OP = 'UPDATE' AND to_jsonb(NEW) - 'ended_at' = to_jsonb(OLD) - 'ended_at' THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'The audit trail is kept: % of % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$;
"""


def keep_runs(_apps, schema_editor):
    if schema_editor.connection.vendor != "postgresql":
        return
    schema_editor.execute(FUNCTION, params=None)  # a literal % is none of ours
    for table, function in zip(TABLES, ("inventory_keep_run", "inventory_keep_halt")):
        schema_editor.execute(
            f"CREATE TRIGGER keep_trail BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION {function}()"
        )
        schema_editor.execute(
            f"CREATE TRIGGER keep_whole_trail BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION inventory_keep_trail()"
        )


def release_runs(_apps, schema_editor):
    if schema_editor.connection.vendor != "postgresql":
        return
    for table in TABLES:
        schema_editor.execute(f"DROP TRIGGER IF EXISTS keep_trail ON {table}")
        schema_editor.execute(f"DROP TRIGGER IF EXISTS keep_whole_trail ON {table}")
    schema_editor.execute("DROP FUNCTION IF EXISTS inventory_keep_run(), inventory_keep_halt()")


class Migration(migrations.Migration):

    dependencies = [
        ('inventory', '0017_divergence'),
    ]

    operations = [migrations.RunPython(keep_runs, release_runs)]
