"""Texts of tokens, `PREFIX` `key.secret`. A token's row has the key and a hash of the secret."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass, field
from hmac import compare_digest

_KEY_AND_SECRET = re.compile(r"(?P<key>[0-9a-f]{16})\.(?P<secret>[\w-]{43})", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class TokenText:
    """A token as its holder sends it. `key` names its row; nobody but the holder has `secret`."""

    prefix: str
    key: str
    secret: str = field(repr=False)

    @classmethod
    def make(cls, prefix: str) -> TokenText:
        """Returns a new one."""
        return cls(prefix=prefix, key=secrets.token_hex(8), secret=secrets.token_urlsafe(32))

    @classmethod
    def parse(cls, text: str, prefix: str) -> TokenText | None:
        """Returns the token in a text, or None for what hasn't the form of one."""
        match = _KEY_AND_SECRET.fullmatch(text.removeprefix(prefix)) if text.startswith(prefix) else None
        return cls(prefix=prefix, key=match["key"], secret=match["secret"]) if match else None

    def __str__(self) -> str:
        return f"{self.prefix}{self.key}.{self.secret}"

    @property
    def secret_hash(self) -> str:
        """The hash to store: the secret is long and random, so a quick one is enough."""
        return hashlib.sha256(self.secret.encode()).hexdigest()

    def has_hash(self, secret_hash: str) -> bool:
        """Returns whether this is the hash of the secret. Takes as long for a wrong one."""
        return compare_digest(self.secret_hash.encode(), secret_hash.encode())


def bearer_text(authorization: str) -> str:
    """Returns what follows `Bearer` in an Authorization header, or an empty text."""
    scheme, _, text = authorization.partition(" ")
    return text if scheme.lower() == "bearer" else ""
