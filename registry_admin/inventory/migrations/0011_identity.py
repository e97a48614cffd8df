"""The inventory's identity; claims of one place each instead of claims anywhere; the mirror by datacenter."""

import uuid

import django.db.models.functions.text
import django.utils.timezone
from django.db import migrations, models

BATCH = 500


def make_identity(apps, schema_editor):
    apps.get_model("inventory", "InventoryIdentity").objects.get_or_create(pk=1)


def place_claims(apps, schema_editor):
    """Places each claim on the node where the instance carries a mark, else on the node of the agent last read.

    Where an unmarked instance is on that node, whose it is can't be told: then nothing is claimed.
    """
    contact = apps.get_model("inventory", "ConsulContact").objects.filter(pk=1).first()
    agent_node = contact.node if contact else ""
    marked, unmarked = {}, set()
    observed = apps.get_model("inventory", "ObservedInstance").objects.order_by()
    for node, consul_id, owner in observed.values_list("node", "consul_id", "owner").iterator(chunk_size=BATCH):
        if owner and (consul_id not in marked or node == agent_node):
            marked[consul_id] = node
        elif not owner and node == agent_node:
            unmarked.add(consul_id)
    instances = apps.get_model("inventory", "Instance").objects
    changed = []
    for row in instances.filter(claimed=True).only("pk", "consul_id").iterator(chunk_size=BATCH):
        row.claimed_node = marked.get(row.consul_id, "" if row.consul_id in unmarked else agent_node)
        changed.append(row)
    instances.bulk_update(changed, ["claimed_node"], batch_size=BATCH)


def drop_places(apps, schema_editor):
    apps.get_model("inventory", "Instance").objects.exclude(claimed_node="").update(claimed=True)


def begin_history(apps, schema_editor):
    """Gives a first version to the declarations from before the audit: what was never declared here is never pruned."""
    history = apps.get_model("inventory", "HistoricalInstance")
    known = history.objects.filter(id=models.OuterRef("pk"))
    fields = ("id", "address", "port", "consul_id", "weight", "extra_tags", "extra_meta", "enabled", "service_id")
    rows = apps.get_model("inventory", "Instance").objects.filter(~models.Exists(known)).values(*fields)
    now = django.utils.timezone.now()
    versions = [
        history(**row, history_date=now, history_type="+", history_change_reason="migration")
        for row in rows.iterator(chunk_size=BATCH)
    ]
    history.objects.bulk_create(versions, batch_size=BATCH)


class Migration(migrations.Migration):
    dependencies = [("inventory", "0010_removal_approvals")]

    operations = [
        migrations.CreateModel(
            name="InventoryIdentity",
            fields=[
                ("id", models.PositiveSmallIntegerField(default=1, editable=False, primary_key=True, serialize=False)),
                ("uuid", models.UUIDField(default=uuid.uuid4, editable=False)),
                ("revision", models.PositiveBigIntegerField(default=0, help_text="Counted up before each run that writes to Consul.")),
                ("newest_revision", models.PositiveBigIntegerField(default=0, help_text="The highest that Consul was seen to know; above revision: the database is older than it.")),
            ],
            options={"constraints": [models.CheckConstraint(condition=models.Q(("id", 1)), name="a_single_inventory_identity")]},
        ),
        migrations.CreateModel(
            name="ReleasedInstance",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("consul_id", models.CharField(max_length=240, verbose_name="service ID")),
                ("at", models.DateTimeField(default=django.utils.timezone.now)),
            ],
            options={
                "ordering": ["consul_id"],
                "constraints": [models.UniqueConstraint(django.db.models.functions.text.Lower("consul_id"), name="one_release_per_id_ignoring_case")],
            },
        ),
        migrations.AddField("instance", "claimed_datacenter", models.CharField(blank=True, editable=False, max_length=128, default=""), preserve_default=False),
        migrations.AddField("instance", "claimed_node", models.CharField(blank=True, editable=False, help_text="Where we registered it.", max_length=512, default=""), preserve_default=False),
        migrations.AddField("instance", "departed_node", models.CharField(blank=True, editable=False, help_text="Where it left by itself.", max_length=512, default=""), preserve_default=False),
        migrations.AddField("consulcontact", "datacenter", models.CharField(blank=True, max_length=128, default=""), preserve_default=False),
        migrations.AddField("consulcontact", "doubt", models.TextField(blank=True, help_text="Why nothing is removed now.", default=""), preserve_default=False),
        migrations.AddField("observedinstance", "datacenter", models.CharField(blank=True, max_length=128, default=""), preserve_default=False),
        migrations.AddField("observedinstance", "owned", models.BooleanField(default=False, help_text="It carries this inventory's mark, which is beyond doubt.")),
        migrations.RemoveConstraint("observedinstance", "one_row_per_node_and_id"),
        migrations.AddConstraint("observedinstance", models.UniqueConstraint(fields=("datacenter", "node", "consul_id"), name="one_row_per_place")),
        migrations.RunPython(make_identity, migrations.RunPython.noop),
        migrations.RunPython(begin_history, migrations.RunPython.noop),
        migrations.RunPython(place_claims, drop_places),
        migrations.RemoveField("instance", "claimed"),
        migrations.RunSQL(
            "CREATE INDEX inventory_historicalinstance_consul_id ON inventory_historicalinstance (consul_id)",
            "DROP INDEX IF EXISTS inventory_historicalinstance_consul_id",
        ),
    ]  # fmt: skip
