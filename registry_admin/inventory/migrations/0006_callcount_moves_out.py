"""Hands CallCount over to the app `callgraph`: only Django's state changes, the table and its rows stay."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("inventory", "0005_dashboard")]
    operations = [
        migrations.SeparateDatabaseAndState(state_operations=[migrations.DeleteModel(name="CallCount")]),
    ]
