"""Floors: the same work with as little between us and Consul or PostgreSQL as Python's own libraries allow."""

from __future__ import annotations

import http.client
import json
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from django.db import connection, transaction

THREADS = 16
REGISTER = "/v1/agent/service/register"
READS = ("/v1/agent/self", "/v1/status/leader", "/v1/agent/services", "/v1/agent/checks", "/v1/catalog/nodes")
# 16 columns of the declarations, as PERFORMANCE.md counts them.
_ROWS = """
SELECT i.id, i.consul_id, i.address, i.port, i.enabled, i.sync_status, i.sync_reason, i.claimed, i.departed,
       s.name, s.enabled, s.tags, s.meta, s.check_kind, s.check_interval, s.deregister_after
FROM inventory_instance i JOIN inventory_service s ON s.id = i.service_id
"""


def register(connect: Callable[[], http.client.HTTPConnection], bodies: Iterable[bytes]) -> None:
    """Each of these to the agent, 16 at a time, on connections that are kept."""
    todo: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    for body in bodies:
        todo.put(body)

    def work() -> None:
        own = connect()
        while True:
            try:
                body = todo.get_nowait()
            except queue.Empty:
                break
            own.request("PUT", REGISTER, body=body)
            own.getresponse().read()
        own.close()

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def read_both_sides(consul: http.client.HTTPConnection) -> int:
    """Everything that a pass must read, parsed: the agent's replies, and the declarations' rows as dicts."""
    for path in READS:
        consul.request("GET", path)
        json.loads(consul.getresponse().read())
    with connection.cursor() as cursor:
        cursor.execute(_ROWS)
        names = [column[0] for column in cursor.description]
        return len([dict(zip(names, row, strict=True)) for row in cursor.fetchall()])


def mirrored_rows() -> list[tuple[Any, ...]]:
    """What the mirror holds, for `write_mirror`."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, service_name, address, port, tags::text, meta::text, weight, owner, health, checks::text,"
            " fingerprint FROM inventory_observedinstance"
        )
        return list(cursor.fetchall())


def write_mirror(rows: Sequence[Sequence[Any]]) -> None:
    """These rows written again, each with values of its own, in one statement of one transaction."""
    arrays = [list(column) for column in zip(*rows, strict=True)]
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "UPDATE inventory_observedinstance AS o SET service_name = f.service_name, address = f.address,"
            " port = f.port, tags = f.tags::jsonb, meta = f.meta::jsonb, weight = f.weight, owner = f.owner,"
            " health = f.health, checks = f.checks::jsonb, fingerprint = f.fingerprint "
            "FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::int[], %s::text[], %s::text[], %s::int[],"
            " %s::text[], %s::text[], %s::text[], %s::text[]) AS f(id, service_name, address, port, tags, meta,"
            " weight, owner, health, checks, fingerprint) WHERE o.id = f.id",
            arrays,
        )
