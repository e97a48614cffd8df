"""Hostile text that anybody who may register at Consul can give as a name, ID, tag, meta value, output or address."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import requests

from tests.parts.agent import ConsulAgent

TEXTS: Mapping[str, str] = MappingProxyType(
    {
        "newline": "a\nb",
        "carriage return": "a\r2026-11-27 INFO forged",
        "tab": "a\tb",
        "escape sequence": "a\x1b[31mb\x1b]0;title\x07",
        "NUL": "a\x00b",
        "NUL alone": "\x00",
        "delete and C1": "a\x7f\x9b\x85b",
        "line separator": "a\u2028b",
        "paragraph separator": "a\u2029b",
        "dot": ".",
        "dots": "..",
        "dots between": "a/../b",
        "dot segment": "a/./b",
        "slash": "a/b",
        "slash first": "/a",
        "slash last": "a/",
        "slashes": "a//b",
        "only a slash": "/",
        "scheme relative": "//evil.example",
        "backslash": "a\\b",
        "percent": "a%2Fb",
        "percent zero": "%00",
        "question mark and hash": "a?x=1#y",
        "semicolon": "a;b",
        "only a space": " ",
        "outer spaces": " a ",
        "no-break space": "\u00a0",
        "Hangul filler": "\u3164",
        "zero width": "a\u200bb",
        "override": "a\u202egpj.exe",
        "isolate": "\u2066a\u2069",
        "byte-order mark": "\ufeffa",
        "tags block": "a\U000e0041",
        "variation selector": "a\ufe0f",
        "combining marks": "Z" + "\u0353\u0321\u034f" * 30,
        "Arabic": "خدمة",
        "Hebrew": "שירות",
        "Cyrillic look-alike": "\u0430pi",
        "dotted capital i": "\u0130",
        "dotless i": "\u0131",
        "sharp s": "stra\u00dfe",
        "capital sharp s": "STRA\u1e9eE",
        "Kelvin sign": "\u212a",
        "emoji": "\U0001f4a5" * 20,
        "surrogate escape": "a\\ud800b",
        "constructor": "constructor",
        "__proto__": "__proto__",
        "hasOwnProperty": "hasOwnProperty",
        "toString": "toString",
        "script": "</textarea></script><script>alert(1)</script>",
        "attribute": "\" onmouseover=\"alert(1)\" x='",
        "comment": "<!--",
        "template": "{{ settings.SECRET_KEY }}{% debug %}",
        "format": "%s %(x)s {0} {x.__class__}",
        "JSON": '"}]',
        "javascript": "javascript:alert(1)",
        "formula": "=cmd|' /C calc'!A0",
        "tilde": "~YQ",
        "asterisk": "*",
        "dash": "-rf",
        "long": "l" * 1000,
        "long in two bytes": "é" * 1000,
        "long in four bytes": "\U0001f4a5" * 1000,
    }
)  # fmt: skip
MAX_META_VALUE = 512
SERVICE = "hostile"
NOT_UTF_8 = "not UTF-8"  # its bytes can't be a str


def json_bytes(value: Any) -> bytes:
    """Returns JSON in which the text of `NOT_UTF_8` stands as bytes that aren't UTF-8."""
    return json.dumps(value).encode().replace(NOT_UTF_8.encode(), b"a\xff\xc0\xafb")


@dataclass
class HostileConsul:
    """Registers hostile text at a real agent. `refused`: what it didn't take, by field.

    Each text is the name of a service, each is all other fields of an instance of `SERVICE`, and each is a node.
    """

    agent: ConsulAgent
    refused: dict[str, list[str]] = field(default_factory=dict)

    def fill(self) -> HostileConsul:
        for number, (key, text) in enumerate([*TEXTS.items(), (NOT_UTF_8, NOT_UTF_8)]):
            self._put("name", key, "/v1/agent/service/register", {"Name": text, "ID": f"named-{number}", "Port": 1})
            self._register_instance(number, key, text)
            service = {"Service": f"on-node-{number}", "ID": f"on-node-{number}", "Port": 1}
            self._put("node", key, "/v1/catalog/register", {"Node": text, "Address": text, "Service": service})
        return self

    def names(self) -> set[str]:
        """Returns the names of the services at the agent."""
        return {service["Service"] for service in self.agent.request("GET", "/v1/agent/services").values()}

    def _register_instance(self, number: int, key: str, text: str) -> None:
        check_id = f"check-{number}"
        instance: dict[str, Any] = {"Name": SERVICE, "ID": f"hostile-{number}", "Port": 1 + number}
        for name, value in {
            "ID": {"ID": text},
            "tag": {"Tags": [text]},
            "meta": {"Meta": {"k": text, "registry-owner": text}} if len(text.encode()) <= MAX_META_VALUE else {},
            "address": {"Address": text},
            "check": {"Check": {"TTL": "1h", "CheckID": check_id, "Name": text, "Notes": text}},
        }.items():
            if self._put(name, key, "/v1/agent/service/register", instance | value):
                instance |= value
        self._put("output", key, f"/v1/agent/check/update/{check_id}", {"Status": "critical", "Output": text})

    def _put(self, field_name: str, key: str, path: str, body: Any) -> bool:
        reply = requests.put(f"{self.agent.url}{path}", data=json_bytes(body), timeout=10)
        if not reply.ok:
            self.refused.setdefault(field_name, []).append(key)
        return reply.ok
