"""The audit trail. On PostgreSQL nobody changes or empties it; what is 30 days old may be deleted, for retention.

Whoever owns the tables can still drop the triggers: deploy/postgresql-roles.sql gives the site a role that doesn't.
"""

import django.utils.timezone
from django.db import migrations, models

# The tables that tell who did what, and the column with the time.
TRAIL = {
    "inventory_auditevent": "at",
    "inventory_historicalservice": "history_date",
    "inventory_historicalinstance": "history_date",
}
FUNCTION = """
CREATE FUNCTION inventory_keep_trail() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' AND (to_jsonb(OLD) ->> TG_ARGV[0])::timestamptz < now() - interval '30 days' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'The audit trail is kept: % of % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$
"""


def keep_trail(_apps, schema_editor):
    if schema_editor.connection.vendor != "postgresql":
        return
    schema_editor.execute(FUNCTION, params=None)  # a literal % is none of ours
    for table, column in TRAIL.items():
        schema_editor.execute(
            f"CREATE TRIGGER keep_trail BEFORE UPDATE OR DELETE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION inventory_keep_trail('{column}')"
        )
        schema_editor.execute(
            f"CREATE TRIGGER keep_whole_trail BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION inventory_keep_trail()"
        )


def release_trail(_apps, schema_editor):
    if schema_editor.connection.vendor != "postgresql":
        return
    for table in TRAIL:
        schema_editor.execute(f"DROP TRIGGER IF EXISTS keep_trail ON {table}")
        schema_editor.execute(f"DROP TRIGGER IF EXISTS keep_whole_trail ON {table}")
    schema_editor.execute("DROP FUNCTION IF EXISTS inventory_keep_trail()")


class Migration(migrations.Migration):

    dependencies = [
        ('inventory', '0015_check_fields'),
    ]

    operations = [
        migrations.CreateModel(
            name='AuditEvent',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('at', models.DateTimeField(db_index=True, default=django.utils.timezone.now)),
                ('action', models.CharField(choices=[('login', 'Logged in'), ('logout', 'Logged out'), ('login_failed', 'Login failed'), ('login_locked', 'Login locked'), ('permission_refused', 'Refused: no permission'), ('csrf_refused', 'Refused: not from our form'), ('host_refused', 'Refused: unknown host name'), ('maintenance_on', 'Put into maintenance'), ('maintenance_off', 'Taken out of maintenance'), ('check_tried', 'Tried the checks'), ('sync', 'Synced'), ('export', 'Exported'), ('import', 'Imported'), ('enabled', 'Enabled'), ('disabled', 'Disabled'), ('halt_confirmed', 'Confirmed as dead'), ('logins_unlocked', 'Unlocked logins'), ('user_changed', 'Changed a user or group'), ('token_made', 'Made a token of a module'), ('token_revoked', 'Revoked a token of a module')], max_length=32)),
                ('actor', models.CharField(blank=True, max_length=150)),
                ('via', models.CharField(blank=True, max_length=100)),
                ('address', models.CharField(blank=True, max_length=64)),
                ('target', models.CharField(blank=True, help_text='What it was done to.', max_length=512)),
                ('detail', models.TextField(blank=True)),
                ('request_id', models.CharField(blank=True, max_length=64, verbose_name='request ID')),
            ],
            options={
                'ordering': ['-at', '-id'],
            },
        ),
        migrations.RunPython(keep_trail, release_trail),
    ]
