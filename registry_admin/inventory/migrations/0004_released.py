from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("inventory", "0003_declarations_notify")]

    operations = [
        migrations.AddField(
            model_name="instance",
            name="released",
            field=models.BooleanField(
                default=False, editable=False, help_text="On its way out of here, not of Consul."
            ),
        ),
    ]
