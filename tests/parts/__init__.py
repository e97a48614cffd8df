"""Real parts that tests are built of: a Consul agent, an HTTP service, a TCP proxy that can be cut, and waiting."""

from tests.parts.agent import ConsulAgent, consul_binary
from tests.parts.service import HttpService, ReceivedRequest
from tests.parts.tcp import FlakyProxy
from tests.parts.waiting import free_port, free_ports, wait_until

__all__ = [
    "ConsulAgent",
    "FlakyProxy",
    "HttpService",
    "ReceivedRequest",
    "consul_binary",
    "free_port",
    "free_ports",
    "wait_until",
]
