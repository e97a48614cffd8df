"""Facts that differ between versions of Consul, for the proxy that answers as another version than the agent's.

tests/consul/test_version_profiles.py holds them against the agent that runs. Each comes from
https://github.com/hashicorp/consul/blob/main/CHANGELOG.md or from what such an agent was seen to answer.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_BODY = 512 * 1024
# From which version on a registration may have them. An agent refuses one with anything that it doesn't know.
SERVICE_FIELDS = {"SocketPath": (1, 10), "Locality": (1, 17), "Ports": (1, 22)}
CHECK_OPTIONS = {"TLSServerName": (1, 10), "FailuresBeforeWarning": (1, 11), "DisableRedirects": (1, 12)}


@dataclass(frozen=True, kw_only=True)
class VersionProfile:
    """Answers of one version. `reply_timeout_s`: after how long a reply that hasn't begun is broken off."""

    version: tuple[int, int]
    max_body: int | None = None  # bytes of a request that registers or updates
    reply_timeout_s: float | None = None

    @property
    def name(self) -> str:
        return ".".join(map(str, self.version))

    @property
    def tells_default_policy(self) -> bool:
        """True if replies to reads carry `X-Consul-Default-ACL-Policy`."""
        return self.version >= (1, 9)

    @property
    def streams(self) -> bool:
        """True if blocking reads of a service's health are answered from a streamed view, which knows no leader."""
        return self.version >= (1, 10)

    @property
    def tells_filtering(self) -> bool:
        """True if `X-Consul-Results-Filtered-By-ACLs` tells whoever sent a token that something was left out."""
        return self.version >= (1, 11)

    @property
    def refuses_unknown_ids(self) -> bool:
        """True if changes of unknown services and checks get a 404; before, 500 or, without ACLs, 200."""
        return self.version >= (1, 12)

    @property
    def names_token(self) -> bool:
        """True if a denial names the accessor of the token and the permission that it lacks."""
        return self.version >= (1, 12)

    @property
    def knows_peers(self) -> bool:
        """True if a service names its peer in the catalog, and its datacenter at the agent."""
        return self.version >= (1, 13)

    @property
    def carries_locality(self) -> bool:
        return self.version >= (1, 17)

    @property
    def has_several_ports(self) -> bool:
        """True if a service may have `Ports` in place of `Port`."""
        return self.version >= (1, 22)


PROFILES = {
    profile.name: profile
    for profile in (
        VersionProfile(version=(1, 8)),
        VersionProfile(version=(1, 17)),
        VersionProfile(version=(1, 21)),
        VersionProfile(version=(2, 0), max_body=MAX_BODY, reply_timeout_s=30),
    )
}
