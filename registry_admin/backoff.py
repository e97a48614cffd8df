"""Exponential backoff: how long to wait before the next attempt. Pure: the caller brings the random number."""

from __future__ import annotations

from dataclasses import dataclass

_MAX_EXPONENT = 64  # beyond it, powers only risk an overflow


@dataclass(frozen=True, kw_only=True)
class ExponentialBackoff:
    """Pauses in seconds that grow from `first_s` by `factor` with each failure in a row, up to `longest_s`.

    `jitter` is the share of a pause that is left to chance: 0 none, 0.5 between half and whole, 1 between none and
    whole. The forms are compared in https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    first_s: float
    longest_s: float
    factor: float = 2.0
    jitter: float = 0.0

    def pause_s(self, failures: int, random_share: float = 1.0) -> float:
        """Returns the seconds to wait after `failures` failures in a row (1 or more).

        `random_share` is a random number from 0 to 1; 1 gives the longest pause.
        """
        exponent = min(max(failures - 1, 0), _MAX_EXPONENT)
        pause = min(self.longest_s, self.first_s * self.factor**exponent)
        return pause * (1 - self.jitter * (1 - random_share))


def spread(seconds: float, share: float, random_share: float) -> float:
    """Returns `seconds` give or take `share` of them: `spread(10, 0.2, r)` is 8 for an `r` of 0 and 12 for 1."""
    return seconds * (1 + share * (2 * random_share - 1))
