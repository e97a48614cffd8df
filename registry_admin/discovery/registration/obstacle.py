"""What keeps an instance from being registered, logged once."""

from __future__ import annotations

import logging
from enum import Enum

from registry_admin.discovery.registration.self_check import SelfCheck, SelfCheckStatus

logger = logging.getLogger(__name__)


class Obstacle(Enum):
    """Cause for which the process is not registered; the value is its text for people."""

    CONSUL_AWAY = "will register when Consul is back"
    CONSUL_REFUSES = "can't register"
    NOT_SERVING = "is not registered while its health check fails"
    FOREIGN = "is not registered while another service has its address"


class ObstacleLog:
    """Logs each obstacle once, until the process is registered or another obstacle takes its place."""

    def __init__(self) -> None:
        self.current: Obstacle | None = None

    @property
    def is_not_serving(self) -> bool:
        """True while the process itself, or another one, is the obstacle."""
        return self.current in {Obstacle.NOT_SERVING, Obstacle.FOREIGN}

    def report(self, name: str, obstacle: Obstacle, cause: object) -> None:
        """Logs what keeps `name` from being registered, and the cause."""
        if obstacle is not self.current:
            level = logging.ERROR if obstacle is Obstacle.CONSUL_REFUSES else logging.WARNING
            logger.log(level, "%s %s: %s", name, obstacle.value, cause)
        self.current = obstacle

    def report_check(self, name: str, check: SelfCheck) -> None:
        """Logs that a self-check has failed, and what it has met."""
        is_foreign = check.status is SelfCheckStatus.FOREIGN
        self.report(name, Obstacle.FOREIGN if is_foreign else Obstacle.NOT_SERVING, check.text)
