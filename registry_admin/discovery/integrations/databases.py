"""Lists of hosts for database drivers that try several by themselves.

psycopg.connect(**libpq_hosts(client.instances("postgres")), dbname="orders", target_session_attrs="read-write")
"""

from __future__ import annotations

from collections.abc import Iterable

from registry_admin.consul.types import ServiceInstance


def host_list(instances: Iterable[ServiceInstance]) -> str:
    """Returns `address:port,address:port`, as MongoDB, Kafka, Cassandra and most others take it."""
    return ",".join(instance.host_port for instance in instances)


def libpq_hosts(instances: Iterable[ServiceInstance]) -> dict[str, str]:
    """Returns `host` and `port` for PostgreSQL's libpq, and so for psycopg: addresses and ports in the same order.

    https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-MULTIPLE-HOSTS
    """
    ordered = list(instances)
    return {
        "host": ",".join(instance.address for instance in ordered),
        "port": ",".join(str(instance.port) for instance in ordered),
    }
