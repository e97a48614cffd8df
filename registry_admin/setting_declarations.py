"""Declarations of settings; typed values, validation, system checks and the table in the docs derive from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Generic, Self, TypeVar, overload

from registry_admin.errors import ConfigurationError, InvalidValueError

T = TypeVar("T")


class Setting(Generic[T]):
    """A key of a dictionary in Django's settings, declared as an attribute of a `SettingsGroup`.

    Reading the attribute returns the value, parsed anew on each access, so that tests and reloads see changes. It
    raises ConfigurationError that names the key. `parse(value, field)` raises InvalidValueError. `default` is parsed
    too; where it is None, the value may be None as well. `check_id` is the system check that reports an invalid value.
    """

    def __init__(
        self, key: str, *, parse: Callable[[object, str], T], default: object, check_id: str, help_text: str
    ) -> None:
        self.key = key
        self.parse = parse
        self.default = default
        self.check_id = check_id
        self.help_text = help_text

    @overload
    def __get__(self, group: None, owner: type[SettingsGroup]) -> Self: ...
    @overload
    def __get__(self, group: SettingsGroup, owner: type[SettingsGroup]) -> T: ...

    def __get__(self, group: SettingsGroup | None, owner: type[SettingsGroup]) -> Self | T:
        return self if group is None else self.value(group)

    def value(self, group: SettingsGroup) -> T:
        """Returns the value in this group's dictionary, or the default."""
        value = group.dictionary().get(self.key, self.default)
        if value is None and self.default is None:
            return value  # type: ignore[return-value]  # T includes None where the default is None
        try:
            return self.parse(value, self.key)
        except InvalidValueError as error:
            raise ConfigurationError(f"{group.label(self)}: {error}") from error


class SettingsGroup:
    """Settings that share a dictionary in Django's settings, `name`, and a prefix of environment variables, if any."""

    name: ClassVar[str]
    variable_prefix: ClassVar[str] = ""
    refuses_unknown_keys: ClassVar[bool] = False

    @classmethod
    def declarations(cls) -> list[Setting[Any]]:
        """Returns the declared settings, in the order of the class."""
        return [value for value in vars(cls).values() if isinstance(value, Setting)]

    def dictionary(self) -> Mapping[str, object]:
        """Returns the dictionary from Django's settings. Raises ConfigurationError for one of another shape."""
        from django.conf import settings  # noqa: PLC0415 - the declarations themselves need no Django

        values = getattr(settings, self.name, {})
        if self.refuses_unknown_keys:
            keys = {setting.key for setting in self.declarations()}
            if not isinstance(values, dict) or not keys.issuperset(values):
                raise ConfigurationError(f"{self.name} is a dict with any of the keys {', '.join(sorted(keys))}")
        return values

    @classmethod
    def variable(cls, setting: Setting[Any]) -> str:
        """Returns the environment variable that sets `setting`, or nothing where the group has none."""
        return f"{cls.variable_prefix}{setting.key}" if cls.variable_prefix else ""

    @classmethod
    def label(cls, setting: Setting[Any]) -> str:
        """Returns what messages call `setting`: `REGISTRY['OWNER'] (or REGISTRY_OWNER)`."""
        variable = cls.variable(setting)
        return f"{cls.name}[{setting.key!r}]" + (f" (or {variable})" if variable else "")

    def errors(self) -> Iterator[tuple[str, ConfigurationError]]:
        """Yields the system check's ID and the error of each invalid setting."""
        for setting in self.declarations():
            try:
                setting.value(self)
            except ConfigurationError as error:
                yield setting.check_id, error

    @classmethod
    def documentation_rows(cls) -> list[str]:
        """Returns the Markdown table's row of each setting: variable, default, meaning."""
        return [
            f"| `{cls.variable(setting) or setting.key}` | {f'`{setting.default}`' if setting.default else ''} | "
            f"{setting.help_text} |"
            for setting in cls.declarations()
        ]
