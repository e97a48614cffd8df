"""A real Prometheus scrapes web and watcher; promtool checks metrics, alerts and the example of a configuration."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.db import connection

from tests.parts import wait_until
from tests.parts.programs import program_path
from tests.parts.waiting import free_port, free_ports

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"
TOKEN = "a token for tests"


def promtool(*arguments: str, text: str = "") -> str:
    """Returns what promtool prints; fails if it finds a fault."""
    command = [program_path("promtool"), *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


def test_example_of_a_configuration_is_valid():
    promtool("check", "config", "--syntax-only", str(DEPLOY / "prometheus.yml"))


def test_alerts_are_valid_and_fire_as_their_tests_say():
    assert "SUCCESS" in promtool("check", "rules", "--lint-fatal", str(DEPLOY / "alerts.yml"))
    assert "SUCCESS" in promtool("test", "rules", str(DEPLOY / "alerts_test.yml"))


def test_board_and_alerts_use_existing_metrics(client, db, settings):
    settings.REGISTRY_METRICS_TOKEN = TOKEN
    text = client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).content.decode()
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    names |= {"registry_watcher_leading", "registry_watcher_last_run_timestamp_seconds"}
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
    board = json.loads((DEPLOY / "grafana-board.json").read_text())
    queries = [rule["expr"] for rule in rules]
    queries += [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(queries) > len(rules)
    for query in queries:
        used = set(re.findall(r"registry_\w+", query))
        assert used <= names
        assert used or "up{" in query


def test_metrics_pass_promtool(client, db, settings):
    settings.REGISTRY_METRICS_TOKEN = TOKEN
    response = client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    promtool("check", "metrics", text=response.content.decode())


@pytest.fixture
def prometheus(tmp_path) -> Iterator[Callable[[dict[str, str]], Callable[[str], list[dict[str, Any]]]]]:
    """`prometheus({job: "host:port"})`: starts one that scrapes them each second; returns `query(expression)`."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(targets: dict[str, str]) -> Callable[[str], list[dict[str, Any]]]:
        (tmp_path / "token").write_text(TOKEN)
        jobs = [
            {
                "job_name": job,
                "authorization": {"credentials_file": str(tmp_path / "token")},
                "static_configs": [{"targets": [target]}],
            }
            for job, target in targets.items()
        ]
        rules = [str(DEPLOY / "alerts.yml")]
        configuration = {"global": {"scrape_interval": "1s"}, "rule_files": rules, "scrape_configs": jobs}
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        address = f"127.0.0.1:{free_port()}"
        command = [
            program_path("prometheus"), f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}", f"--web.listen-address={address}", "--log.level=error",
        ]  # fmt: skip
        processes.append(subprocess.Popen(command))

        def query(expression: str) -> list[dict[str, Any]]:
            url = f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
            try:
                with urllib.request.urlopen(url, timeout=5) as response:
                    return list(json.load(response)["data"]["result"])
            except OSError:
                return []

        return query

    yield start
    for process in processes:
        process.terminate()
        process.wait(20)


@pytest.mark.filterwarnings("ignore:No directory at")  # nobody has run collectstatic
@pytest.mark.skipif(connection.vendor != "postgresql", reason="the watcher needs a database that processes share")
def test_prometheus_scrapes_web_and_watcher(prometheus, watch, own_agent, live_server, settings):
    settings.REGISTRY_METRICS_TOKEN = TOKEN
    (port,) = free_ports(1)
    watcher = watch("--metrics-bind", f"127.0.0.1:{port}", CONSUL_HTTP_ADDR=own_agent.url)
    query = prometheus(
        {"registry-admin": live_server.url.removeprefix("http://"), "registry-watcher": f"127.0.0.1:{port}"}
    )
    wait_until(lambda: len(query("up == 1")) == 2, 30, "both to be scraped")
    wait_until(lambda: query("registry_watcher_leading == 1"), 30, "the watcher to lead")
    wait_until(lambda: query("registry_leader == 1 and registry_consul_reachable == 1"), 30, "the web to show it")
    assert query("registry_watcher_last_run_timestamp_seconds > 0")
    assert query("process_resident_memory_bytes > 0")
    assert not query("registry_leader == 0")
    watcher.process.kill()
    wait_until(lambda: query('up{job="registry-watcher"} == 0'), 30, "the dead watcher to be noticed")
    wait_until(lambda: query("registry_leader == 0"), 60, "the lease to end")


def test_metrics_address_that_is_taken_ends_the_watcher(manage, own_agent):
    taken = own_agent.url.removeprefix("http://")
    ended = manage("sync_registry", "--watch", "--metrics-bind", taken, CONSUL_HTTP_ADDR=own_agent.url)
    assert ended.code == 1
    assert f"--metrics-bind: {taken} can't be used: Address already in use" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("address", ["9464", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:0", "127.0.0.1:65536"])
def test_invalid_metrics_address_is_refused(manage, address):
    ended = manage("sync_registry", "--watch", "--metrics-bind", address)
    assert ended.code == 1
    assert "give HOST:PORT" in ended.err
