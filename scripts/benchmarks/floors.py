"""Floors: the same work, done with only http.client and SQL, as the least that a measurement can cost."""

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
SELECT i.id, i.consul_id, i.address, i.port, i.enabled, i.sync_status, i.sync_reason, i.claimed_node, i.departed,
       s.name, s.enabled, s.tags, s.meta, s.check_kind, s.check_interval, s.deregister_after
FROM inventory_instance i JOIN inventory_service s ON s.id = i.service_id
"""


def register(connect: Callable[[], http.client.HTTPConnection], bodies: Iterable[bytes]) -> None:
    """Sends the registrations to the agent from 16 threads, each with a connection of its own."""
    pending: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    for body in bodies:
        pending.put(body)

    def send_pending() -> None:
        consul = connect()
        while True:
            try:
                body = pending.get_nowait()
            except queue.Empty:
                break
            consul.request("PUT", REGISTER, body=body)
            consul.getresponse().read()
        consul.close()

    threads = [threading.Thread(target=send_pending) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def read_both_sides(consul: http.client.HTTPConnection) -> int:
    """Reads and parses what a pass needs: the agent's replies and the declarations. Returns the number of rows."""
    for path in READS:
        consul.request("GET", path)
        json.loads(consul.getresponse().read())
    with connection.cursor() as cursor:
        cursor.execute(_ROWS)
        names = [column[0] for column in cursor.description]
        return len([dict(zip(names, row, strict=True)) for row in cursor.fetchall()])


def mirrored_rows() -> list[tuple[Any, ...]]:
    """Returns the rows of the mirror, for `write_mirror`."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, service_name, address, port, tags::text, meta::text, weight, owner, health, checks::text,"
            " fingerprint FROM inventory_observedinstance"
        )
        return list(cursor.fetchall())


def write_mirror(rows: Sequence[Sequence[Any]]) -> None:
    """Writes the rows again, each with values of its own, in one statement of one transaction."""
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
