"""Real parts that tests are built of: Consul agents and clusters, services, proxies that can be cut, and waiting."""

from tests.parts.agent import ConsulAgent, consul_binary
from tests.parts.cluster import ConsulCluster
from tests.parts.nodes import ConsulNodes
from tests.parts.recorder import RecordingProxy
from tests.parts.rotation import PassingPoller
from tests.parts.service import HttpService, ReceivedRequest
from tests.parts.tcp import FlakyProxy
from tests.parts.tls import Certificates
from tests.parts.waiting import assert_holds, free_port, free_ports, refusing_port, wait_until

__all__ = [
    "Certificates",
    "ConsulAgent",
    "ConsulCluster",
    "ConsulNodes",
    "FlakyProxy",
    "HttpService",
    "PassingPoller",
    "ReceivedRequest",
    "RecordingProxy",
    "assert_holds",
    "consul_binary",
    "free_port",
    "free_ports",
    "refusing_port",
    "wait_until",
]
