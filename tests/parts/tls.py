"""A private certificate authority and what it has signed, made by Consul's own command line."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificates:
    """Files of one authority: its own certificate, an agent's, and a client's with their keys.

    The agent's is good for `localhost`, `127.0.0.1` and `server.dc1.consul`.
    """

    folder: Path

    @classmethod
    def make(cls, folder: Path, binary: Path) -> Certificates:
        """A new authority that nobody else trusts."""
        for arguments in (("ca", "create"), ("cert", "create", "-server"), ("cert", "create", "-client")):
            subprocess.run([binary, "tls", *arguments], cwd=folder, capture_output=True, check=True)
        return cls(folder)

    @property
    def ca(self) -> str:
        return str(self.folder / "consul-agent-ca.pem")

    @property
    def agent(self) -> tuple[str, str]:
        """Certificate and key."""
        return self._pair("server")

    @property
    def client(self) -> tuple[str, str]:
        """Certificate and key."""
        return self._pair("client")

    @property
    def env(self) -> dict[str, str]:
        """Consul's own variables for a client that trusts this authority and shows its certificate."""
        cert, key = self.client
        return {"CONSUL_CACERT": self.ca, "CONSUL_CLIENT_CERT": cert, "CONSUL_CLIENT_KEY": key}

    def settings(self, version: tuple[int, int]) -> dict[str, object]:
        """Returns the settings of an agent of this version that refuses clients without one of these certificates."""
        cert, key = self.agent
        files = {"ca_file": self.ca, "cert_file": cert, "key_file": key}
        if version >= (1, 12):
            return {"tls": {"defaults": files | {"verify_incoming": True, "verify_outgoing": True}}}
        return files | {"verify_incoming": True, "verify_outgoing": True}

    def _pair(self, kind: str) -> tuple[str, str]:
        return str(self.folder / f"dc1-{kind}-consul-0.pem"), str(self.folder / f"dc1-{kind}-consul-0-key.pem")
