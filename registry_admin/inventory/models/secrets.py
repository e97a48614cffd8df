"""Secret values of declarations, as people are shown them: the names stay, each value is hidden.

A hidden value that comes back, by a form or a document, stands for the saved one: docs/decisions/0024-kept-checks.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from registry_admin.consul.validation import HIDDEN

CHANGED = "(another value)"


def hidden(pairs: Mapping[str, str]) -> dict[str, str]:
    """Returns the pairs with hidden values."""
    return dict.fromkeys(pairs, HIDDEN)


def hidden_change(before: Mapping[str, str] | None, after: Mapping[str, str]) -> dict[str, str]:
    """Returns the pairs after a change, with hidden values that tell which of them differ."""
    former = before or {}
    return {name: CHANGED if former.get(name, text) != text else HIDDEN for name, text in after.items()}


def revealed(pairs: Mapping[str, str], saved: Mapping[str, str]) -> dict[str, str]:
    """Returns the pairs with each hidden value replaced by the saved one, where there is one."""
    return {name: saved.get(name, text) if text == HIDDEN else text for name, text in pairs.items()}
