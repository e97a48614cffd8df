"""Differences between our agent and the catalog are remembered until the next look."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("inventory", "0016_audit_trail")]

    operations = [
        migrations.AddField(
            model_name="consulcontact",
            name="divergence",
            field=models.JSONField(
                default=dict, help_text="Where the catalog differs from our agent, and since when."
            ),
        ),
    ]
