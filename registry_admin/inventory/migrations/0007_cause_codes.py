"""Causes as codes: the columns held the sentences that people read, and so did the addresses that filter by them."""

from django.db import migrations

CODES = {
    "never registered": "never_registered",
    "edited by hand": "edited",
    "removed by hand": "removed",
    "agent lost its state": "agent_lost_state",
    "answers again": "recovered",
    "declaration changed": "declaration_changed",
    "no longer declared": "not_declared",
    "registered itself": "registered_itself",
    "left by itself": "left",
    "someone else's": "foreign",
    "on another node": "other_node",
    **{word: word for word in ("evicted", "disabled", "adopted")},
}
BATCH = 500


def codes_from_sentences(apps, schema_editor):
    """Turns the columns into codes, and adds the code to the items of past runs, which keep their sentence."""
    _replace(apps, CODES)
    runs = apps.get_model("inventory", "SyncRun")
    changed = []
    for run in runs.objects.exclude(items=[]).only("items").iterator(chunk_size=BATCH):
        run.items = [{**item, "cause_code": CODES.get(item.get("cause", ""), "")} for item in run.items]
        changed.append(run)
        if len(changed) == BATCH:
            runs.objects.bulk_update(changed, ["items"])
            changed = []
    runs.objects.bulk_update(changed, ["items"])


def sentences_from_codes(apps, schema_editor):
    _replace(apps, {code: sentence for sentence, code in CODES.items()})


def _replace(apps, values):
    for name in ("Instance", "ObservedInstance"):
        rows = apps.get_model("inventory", name).objects
        for old, new in values.items():
            if old != new:
                rows.filter(sync_cause=old).update(sync_cause=new)


class Migration(migrations.Migration):
    dependencies = [("inventory", "0006_callcount_moves_out")]

    operations = [migrations.RunPython(codes_from_sentences, sentences_from_codes)]
