"""Form fields of tags, and of pairs of texts. What wasn't changed comes back exactly as it was."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from registry_admin.consul.validation import HIDDEN
from registry_admin.inventory.models.secrets import hidden


class TagsField(forms.CharField):
    """A list of tags, separated by commas. One that holds a comma stands in double quotes."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("help_text", 'With commas between them, such as: api, v2. One with a comma: "a,b".')
        super().__init__(required=False, **kwargs)
        self.widget.attrs.setdefault("size", 20)

    def prepare_value(self, value: Any) -> Any:
        """Returns a list as text, and typed text unchanged."""
        return ", ".join(map(_quoted_tag, value)) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        """Returns the tags as a list. Raises ValidationError for a quotation mark that nothing closes."""
        if isinstance(value, list):
            return value
        try:
            rows = list(csv.reader(io.StringIO(value or ""), skipinitialspace=True, strict=True))
        except csv.Error:
            raise ValidationError('A tag in quotes ends with one: write "a,b", and \'"\' within as two.') from None
        return [tag.strip() for row in rows for tag in row if tag.strip()]


class MetaField(forms.CharField):
    """Pairs of text, one to a line."""

    separator = " ="

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("help_text", "One pair to a line, such as: version = 1.4. Spaces at an end need quotes.")
        kwargs.setdefault("widget", forms.Textarea(attrs={"rows": 3, "cols": 40}))
        super().__init__(required=False, **kwargs)

    def prepare_value(self, value: Any) -> Any:
        """Returns pairs as sorted lines, and typed text unchanged."""
        if not isinstance(value, dict):
            return value
        return "\n".join(f"{key}{self.separator} {_quoted_value(text)}" for key, text in sorted(value.items()))

    def to_python(self, value: Any) -> Any:
        """Returns the lines as pairs. Raises ValidationError that names the line."""
        if isinstance(value, dict):
            return value
        pairs: dict[str, str] = {}
        mark = self.separator.strip()
        for number, line in enumerate((value or "").splitlines(), start=1):
            if not line.strip():
                continue
            key, separator, content = (part.strip() for part in line.partition(mark))
            if not separator:
                raise ValidationError(f"Line {number} has no '{mark}': write it as key{self.separator} value.")
            if key in pairs:
                raise ValidationError(f"Line {number}: {key} is there twice.")
            pairs[key] = _unquoted_value(content)
        return pairs


class HeadersField(MetaField):
    """Headers of a request, one to a line. Their values are hidden: one that is left so stays as it is."""

    separator = ":"

    def __init__(self, **kwargs: Any) -> None:
        text = f"Of HTTP checks, one to a line, such as: Accept: text/plain. Values are {HIDDEN} once they are saved."
        kwargs.setdefault("help_text", text)
        super().__init__(**kwargs)

    def prepare_value(self, value: Any) -> Any:
        """Returns the headers' names, with hidden values."""
        return super().prepare_value(hidden(value) if isinstance(value, dict) else value)

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Returns whether any header was added, removed or given another value."""
        return super().has_changed(hidden(initial) if isinstance(initial, dict) else initial, data)


def _quoted_tag(tag: object) -> str:
    text = str(tag)
    return '"' + text.replace('"', '""') + '"' if "," in text or '"' in text else text


def _quoted_value(text: object) -> str:
    value = str(text)
    return json.dumps(value, ensure_ascii=False) if value != value.strip() or value.startswith('"') else value


def _unquoted_value(content: str) -> str:
    if len(content) > 1 and content.startswith('"') and content.endswith('"'):
        try:
            value = json.loads(content)
        except ValueError:
            return content
        return str(value)
    return content
