"""Rules for fields of a declared instance that are wider than those for what is called: an address or port may lack."""

from __future__ import annotations

from registry_admin.consul import validation


def declared_address(value: object, field: str = "address") -> str:
    """An address that others can connect to, or nothing for that of its agent's node."""
    return validation.address(value, field) if value != "" else ""


def declared_port(value: object, field: str = "port") -> int:
    """A port, or 0 for an instance that has none."""
    return validation.whole_number(value, field, minimum=0, maximum=65535)


def warning_weight(value: object, field: str = "warning_weight") -> int | None:
    """An instance's share of calls while a check of it warns, 0 to 65535; None for its usual one."""
    return None if value is None else validation.whole_number(value, field, minimum=0, maximum=65535)
