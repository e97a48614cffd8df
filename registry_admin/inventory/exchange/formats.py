"""The formats of documents, declared once each: name, extension, content type, how to recognise, parse and write them.

A further format is a further entry of FORMATS.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from registry_admin.inventory.exchange.strict_hcl import is_hcl, parse_hcl
from registry_admin.inventory.exchange.strict_json import parse_json
from registry_admin.inventory.exchange.strict_yaml import parse_yaml


@dataclass(frozen=True, kw_only=True)
class DocumentFormat:
    """A format of documents.

    `parse` returns plain data, with its lines where they are known, and raises DocumentError. `matches` tells whether a
    text is in this format.
    """

    name: str
    label: str
    matches: Callable[[str], bool]
    parse: Callable[[str], Any]


@dataclass(frozen=True, kw_only=True)
class OwnFormat(DocumentFormat):
    """A format of our own documents, which are written too; in the others are only Consul's."""

    extension: str
    content_type: str
    dump: Callable[[Any], str]


def format_of(text: str) -> DocumentFormat:
    """Returns the format of a text; YAML where no other matches."""
    return next((known for known in FORMATS.values() if known.matches(text)), FORMATS[DEFAULT_FORMAT])


def _dump_json(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _dump_yaml(document: Any) -> str:
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(document, Dumper=dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


DEFAULT_FORMAT = "yaml"
OWN_FORMATS = {
    known.name: known
    for known in (
        OwnFormat(
            name="yaml",
            label="YAML",
            extension="yaml",
            content_type="application/yaml",
            matches=lambda _text: False,  # the default
            parse=parse_yaml,
            dump=_dump_yaml,
        ),
        OwnFormat(
            name="json",
            label="JSON",
            extension="json",
            content_type="application/json",
            matches=lambda text: text.lstrip()[:1] in ("{", "["),
            parse=parse_json,
            dump=_dump_json,
        ),
    )
}
FORMATS: dict[str, DocumentFormat] = {
    **OWN_FORMATS,
    "hcl": DocumentFormat(name="hcl", label="HCL", matches=is_hcl, parse=parse_hcl),
}
LABELS = " or ".join(known.label for known in OWN_FORMATS.values())
CONSUL_LABELS = "Consul's own service definitions (JSON, HCL) or what its API shows of an agent or of services"
