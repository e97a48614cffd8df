"""The cache that web processes share: Redis where it is configured, and the database where Redis is away."""

from __future__ import annotations

import logging
import socket
import threading

import pytest
from django.db import transaction
from redis.exceptions import ConnectionError as RedisConnectionError

from registry_admin.inventory.cache import RETRY_AFTER_S, CacheGuard, cached
from tests.parts import free_port

pytestmark = pytest.mark.network


class Computation:
    """Returns the numbers of its calls: 1, 2, …"""

    calls = 0

    def __call__(self) -> int:
        self.calls += 1
        return self.calls


@pytest.fixture
def compute() -> Computation:
    return Computation()


def refuse() -> None:
    raise RedisConnectionError("refused")


def test_cached_value_in_redis_is_shared_by_processes(transactional_db, redis_server, use_redis, compute):
    for _process in range(2):
        use_redis(redis_server.url)
        assert cached("sums", "stamp-1", compute) == 1
    assert compute.calls == 1
    (key,) = redis_server.keys()
    assert key.startswith("registry-admin:")


def test_cached_value_of_another_stamp_is_computed(transactional_db, redis_server, use_redis, compute):
    use_redis(redis_server.url)
    assert [cached("sums", stamp, compute) for stamp in ("a", "b", "a")] == [1, 2, 1]


def test_cached_value_within_a_transaction_is_computed_and_not_shared(
    transactional_db, redis_server, use_redis, compute
):
    use_redis(redis_server.url)
    with transaction.atomic():
        assert cached("sums", "stamp", compute) == 1
    assert redis_server.keys() == []
    assert cached("sums", "stamp", compute) == 2
    assert len(redis_server.keys()) == 1


def test_cached_value_is_computed_while_redis_is_away(transactional_db, use_redis, compute, caplog):
    use_redis(f"redis://127.0.0.1:{free_port()}/0")
    with caplog.at_level(logging.INFO, "registry_admin"):
        assert [cached("sums", "stamp", compute) for _ in range(3)] == [1, 2, 3]
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "REDIS_URL" in record.getMessage()


def test_cached_value_in_redis_that_is_no_json_is_computed(transactional_db, redis_server, use_redis, compute):
    use_redis(redis_server.url)
    cached("sums", "stamp", compute)
    (key,) = redis_server.keys()
    redis_server.write(key, b"\x80\x04pickle")
    assert cached("sums", "stamp", compute) == 2


def test_cached_value_in_redis_that_is_nested_deeply_is_computed(transactional_db, redis_server, use_redis, compute):
    use_redis(redis_server.url)
    cached("sums", "stamp", compute)
    (key,) = redis_server.keys()
    redis_server.write(key, b"[" * 200_000)
    assert cached("sums", "stamp", compute) == 2


@pytest.mark.parametrize("forged", [b"7", b'"7"', b'"7:c2lnbmF0dXJl"', b"[7]", b'{"rows": []}'])
def test_cached_value_that_another_wrote_to_redis_is_computed(
    transactional_db, redis_server, use_redis, compute, forged
):
    use_redis(redis_server.url)
    cached("sums", "stamp", compute)
    (key,) = redis_server.keys()
    redis_server.write(key, forged)
    assert cached("sums", "stamp", compute) == 2
    assert cached("sums", "stamp", compute) == 2


def test_cached_value_moved_to_another_key_in_redis_is_computed(transactional_db, redis_server, use_redis, compute):
    use_redis(redis_server.url)
    cached("sums", "stamp", compute)
    (key,) = redis_server.keys()
    cached("counts", "stamp", compute)
    (other,) = set(redis_server.keys()) - {key}
    redis_server.write(other, redis_server.read(key))
    assert cached("counts", "stamp", compute) == 3


def test_redis_that_does_not_answer_is_asked_once(transactional_db, use_redis, compute):
    connections = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connections.append(listener.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept)
        thread.start()
        use_redis(f"redis://127.0.0.1:{listener.getsockname()[1]}/0")
        assert [cached("sums", "stamp", compute) for _ in range(3)] == [1, 2, 3]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)
    for connection in connections:
        connection.close()
    assert len(connections) == 1


def test_redis_is_used_again_after_an_outage(transactional_db, redis_server, use_redis, compute, monkeypatch):
    use_redis(redis_server.url)
    now = [0.0]
    monkeypatch.setattr("registry_admin.inventory.cache._guard", CacheGuard(clock=lambda: now[0]))
    assert [cached("sums", "a", compute), cached("sums", "a", compute)] == [1, 1]
    redis_server.stop()
    assert cached("sums", "a", compute) == 2
    redis_server.start()
    assert cached("sums", "a", compute) == 3  # within RETRY_AFTER_S
    now[0] += RETRY_AFTER_S
    assert [cached("sums", "a", compute), cached("sums", "a", compute)] == [4, 4]


def test_cache_guard_calls_once_per_retry_period_and_logs_the_outage_and_its_end(caplog):
    now = [0.0]
    guard = CacheGuard(clock=lambda: now[0])
    attempts = []

    def fail() -> None:
        attempts.append(now[0])
        refuse()

    with caplog.at_level(logging.INFO, "registry_admin"):
        for second in range(25):
            now[0] = float(second)
            assert guard.call(fail) is None
        now[0] = 30.0
        assert guard.call(lambda: "value") == "value"
    assert attempts == [0.0, 10.0, 20.0]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
