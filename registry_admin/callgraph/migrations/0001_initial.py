"""Takes CallCount over from the inventory: the table and its rows stay as they are."""

from django.db import migrations, models


def move_content_type(source, target):
    """Returns the operation that gives the model's content type, and so its permissions, to another app."""

    def move(apps, schema_editor):
        content_types = apps.get_model("contenttypes", "ContentType").objects.using(schema_editor.connection.alias)
        content_types.filter(app_label=source, model="callcount").update(app_label=target)

    return move


class Migration(migrations.Migration):
    initial = True
    dependencies = [
        ("inventory", "0006_callcount_moves_out"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]
    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.CreateModel(
                    name="CallCount",
                    fields=[
                        (
                            "id",
                            models.BigAutoField(
                                auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                            ),
                        ),
                        ("at", models.DateTimeField(help_text="When the five minutes began.")),
                        ("caller", models.CharField(max_length=128)),
                        ("called", models.CharField(max_length=128)),
                        ("calls", models.PositiveBigIntegerField(default=0)),
                        (
                            "failures",
                            models.PositiveBigIntegerField(
                                default=0, help_text="Of those, how many failed after all attempts."
                            ),
                        ),
                        ("milliseconds", models.FloatField(default=0, help_text="All calls together.")),
                        ("slowest_ms", models.FloatField(default=0)),
                    ],
                    options={
                        "db_table": "inventory_callcount",
                        "ordering": ["-at", "caller", "called"],
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("at", "caller", "called"), name="one_count_per_pair_and_time"
                            )
                        ],
                    },
                ),
            ],
        ),
        migrations.RunPython(move_content_type("inventory", "callgraph"), move_content_type("callgraph", "inventory")),
    ]
