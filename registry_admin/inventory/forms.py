"""Form fields that people can type into: tags as words, meta as lines of `key = value`."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.exceptions import ValidationError


class TagsField(forms.CharField):
    """A list of tags, written with commas or spaces between them."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("help_text", "Words with commas between them, such as: api, v2")
        super().__init__(required=False, **kwargs)
        self.widget.attrs.setdefault("size", 20)

    def prepare_value(self, value: Any) -> Any:
        """A list as text; what somebody has just typed as it is."""
        return ", ".join(map(str, value)) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        """The words as a list."""
        if isinstance(value, list):
            return value
        return [word for word in (value or "").replace(",", " ").split(" ") if word]


class MetaField(forms.CharField):
    """Pairs of text, one to a line."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("help_text", "One pair to a line, such as: version = 1.4")
        kwargs.setdefault("widget", forms.Textarea(attrs={"rows": 3, "cols": 40}))
        super().__init__(required=False, **kwargs)

    def prepare_value(self, value: Any) -> Any:
        """Pairs as lines, in order; what somebody has just typed as it is."""
        if not isinstance(value, dict):
            return value
        return "\n".join(f"{key} = {content}" for key, content in sorted(value.items()))

    def to_python(self, value: Any) -> Any:
        """The lines as pairs; raises ValidationError that names the line."""
        if isinstance(value, dict):
            return value
        pairs: dict[str, str] = {}
        for number, line in enumerate((value or "").splitlines(), start=1):
            if not line.strip():
                continue
            key, equals, content = (part.strip() for part in line.partition("="))
            if not equals:
                raise ValidationError(f"Line {number} has no '=': write it as key = value.")
            if key in pairs:
                raise ValidationError(f"Line {number}: {key} is there twice.")
            pairs[key] = content
        return pairs


class ServiceForm(forms.ModelForm):
    """A declaration."""

    tags = TagsField()
    meta = MetaField()


class InstanceForm(forms.ModelForm):
    """A declared instance, in a row of its service's form."""

    extra_tags = TagsField(help_text="")
    extra_meta = MetaField(help_text="", widget=forms.Textarea(attrs={"rows": 1, "cols": 18}))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, field in self.fields.items():  # the columns' heads are no labels to a screen reader
            field.widget.attrs.setdefault("aria-label", str(field.label or name.replace("_", " ")))


class InstanceFormSet(forms.BaseInlineFormSet):
    """All instances of a service."""

    def add_fields(self, form: Any, index: int | None) -> None:
        """As stock, and the box that deletes has a name for screen readers."""
        super().add_fields(form, index)
        if "DELETE" in form.fields:
            form.fields["DELETE"].widget.attrs["aria-label"] = f"Delete {form.instance}"

    def clean(self) -> None:
        """Refuses a service ID that is there twice: the database alone would notice, and only while saving."""
        super().clean()
        seen: set[str] = set()
        for form in self.forms:
            if form in self.deleted_forms or form.errors or not (form.instance.pk or form.has_changed()):
                continue
            consul_id = form.instance.consul_id.lower()
            if consul_id in seen:
                form.add_error("consul_id", "Another instance above has this service ID already.")
            seen.add(consul_id)
