"""Forms of the inventory."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db.models.functions import Lower
from django.http import HttpRequest

from registry_admin.inventory.admin.fields import HeadersField, MetaField, TagsField
from registry_admin.inventory.bulk_update import free_unique_values
from registry_admin.inventory.models import Instance, Service
from registry_admin.inventory.models.declared_fields import declared_fields
from registry_admin.inventory.removal_confirmation import FIELD, removal_refusal
from registry_admin.inventory.sync.removals import RemovalPreview, preview_removals, preview_renaming

CHECK_LINES = (("check_kind", "check_scheme", "check_path"), ("check_interval", "check_timeout", "deregister_after"))


def service_fieldsets() -> tuple[tuple[str | None, Any], ...]:
    """Returns the sections of a service's form. Check fields without a place in CHECK_LINES are options."""
    fields = declared_fields(Service)
    placed = {name for line in CHECK_LINES for name in line}
    check = {
        "fields": CHECK_LINES,
        "description": "The same for every instance. Durations need a unit, such as 10s or 1m30s.",
    }
    options = {
        "fields": [field.name for field in fields if field.is_of_check and field.name not in placed],
        "classes": ["collapse"],
    }
    facts = [field.name for field in fields if not field.is_of_check and not field.is_json]
    labels = [field.name for field in fields if not field.is_of_check and field.is_json]
    confirmation = {"fields": [FIELD], "classes": ["collapse"]}
    return (
        (None, {"fields": facts}),
        ("Tags and meta", {"fields": labels}),
        ("Health check", check),
        ("Options of the health check", options),
        ("Removals", confirmation),
    )


def _one_line() -> forms.Textarea:
    return forms.Textarea(attrs={"rows": 1, "cols": 18})


class ServiceForm(forms.ModelForm):
    """The form of a service. `removals` confirms the number of instances that saving takes out of Consul."""

    tags = TagsField()
    meta = MetaField()
    check_headers = HeadersField()
    removals = forms.CharField(
        required=False,
        label="Confirm removals",
        help_text="Only where saving is refused because it would take much out of Consul: the text that it asks for.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )


class InstanceForm(forms.ModelForm):
    """The form of an instance: a row of its service's form."""

    extra_tags = TagsField(help_text="")
    extra_meta = MetaField(help_text="", widget=_one_line())
    tagged_addresses = MetaField(help_text="", widget=_one_line())

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.instance.is_saved_with_others = True
        for name, field in self.fields.items():  # a screen reader doesn't take column heads as labels
            field.widget.attrs.setdefault("aria-label", str(field.label or name.replace("_", " ")))


class InstanceFormSet(forms.BaseInlineFormSet):
    """All instances of a service.

    `request`: whose user saves it. `removals`: what saving it takes out of Consul.
    """

    request: HttpRequest
    removals = RemovalPreview(removals=())

    def add_fields(self, form: Any, index: int | None) -> None:
        """Adds the stock fields, and names the delete box for screen readers."""
        super().add_fields(form, index)
        if "DELETE" in form.fields:
            form.fields["DELETE"].widget.attrs["aria-label"] = f"Delete {form.instance}"

    def validate_unique(self) -> None:
        """Leaves unique values to `clean`, which names both instances."""

    def clean(self) -> None:
        """Refuses a service ID or an address and port that two instances would have, as they will be saved."""
        super().clean()
        ids, endpoints = self._kept_beside()
        for form in self.forms:
            if form in self.deleted_forms or form.errors or not (form.instance.pk or form.has_changed()):
                continue
            row = form.instance
            key, endpoint = row.consul_id.lower(), (row.address, row.port)
            if endpoint in endpoints:
                form.add_error("port", f"{endpoints[endpoint]} is at this address and port already.")
            elif key in ids:
                form.add_error("consul_id", f"{ids[key]} has this service ID already.")
            ids.setdefault(key, f"Another instance above, at {row.address}:{row.port},")
            endpoints.setdefault(endpoint, f"Another instance above, {row},")
        self._check_removals()

    def _check_removals(self) -> None:
        """Raises ValidationError where saving removes from Consul what the user may not, or has not confirmed."""
        service = self.instance
        leaving: list[str] = []
        staying: list[str] = []
        for form in self.initial_forms:
            is_leaving = form in self.deleted_forms or not (service.enabled and form.instance.enabled)
            (leaving if is_leaving else staying).append(str(form.initial.get("consul_id", "")))
        removals = preview_removals(leaving)
        if service.pk and service.saved_name.lower() != service.name.lower():
            removals = removals.joined_with(preview_renaming(staying, name=service.name, named=True))
        if refusal := removal_refusal(self.request, removals):
            raise ValidationError(f"Nothing was saved. {refusal}")
        self.removals = removals

    def _kept_beside(self) -> tuple[dict[str, str], dict[tuple[str, int], str]]:
        """Returns the owners of the IDs, and of the service's endpoints, that aren't among these forms."""
        own = [form.instance.pk for form in self.initial_forms if form.instance.pk]
        keys = {form.instance.consul_id.lower() for form in self.forms}
        others = Instance.objects.exclude(pk__in=own).select_related("service")
        ids = {
            row.consul_id.lower(): f"An instance of {row.service} at {row.address}:{row.port}"
            for row in others.alias(key=Lower("consul_id")).filter(key__in=keys)
        }
        added = others.filter(service=self.instance.pk) if self.instance.pk else ()  # since the form was loaded
        return ids, {(row.address, row.port): str(row) for row in added}

    def save(self, commit: bool = True) -> Any:  # noqa: FBT001, FBT002 - Django's signature
        """Saves the instances in any order: those that swap ports, addresses or IDs too."""
        if commit:
            keys = (form.instance.pk for form in self.initial_forms if form.has_changed())
            free_unique_values(key for key in keys if key)
        return super().save(commit)
