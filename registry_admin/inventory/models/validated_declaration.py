"""Declarations whose fields are validated in forms and in code alike."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Self

from django.core.exceptions import ValidationError

from registry_admin.errors import InvalidValueError
from registry_admin.inventory.models.declared_fields import Declaration


class ValidatedDeclaration(Declaration):
    """A declaration whose fields go through `consul.validation`, in forms and in code alike."""

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Saves, after the same validation as in a form."""
        self.clean()
        super().save(*args, **kwargs)
        self.track_saved()

    @classmethod
    def from_db(cls, db: str | None, field_names: Collection[str], values: Collection[Any], **options: Any) -> Self:
        """Returns the row, with the values that Consul may know it by remembered."""
        row = super().from_db(db, field_names, values, **options)
        row.track_saved()
        return row

    def track_saved(self) -> None:
        """Remembers the saved values that Consul may know the row by. Deferred fields are not fetched."""
        raise NotImplementedError

    def normalizers(self) -> dict[str, Callable[[Any], Any]]:
        """Returns, by field, the function that returns a value's canonical form or raises InvalidValueError."""
        raise NotImplementedError

    def clean(self) -> None:
        """Puts each field into its canonical form. Raises ValidationError with every invalid field."""
        super().clean()
        errors: dict[str, str] = {}
        for name, normalize in self.normalizers().items():
            try:
                setattr(self, name, normalize(getattr(self, name)))
            except InvalidValueError as error:
                key = error.field.partition(".")[2]  # the key of an invalid pair
                errors[name] = f"{key}: {error.reason}" if key else error.reason
        if errors:
            raise ValidationError(errors)
