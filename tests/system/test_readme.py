"""The README's examples, as real processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.parts import ConsulAgent, HttpService, free_port, wait_until
from tests.parts.servers import Server

pytestmark = pytest.mark.system
ROOT = Path(__file__).parents[2]


def example(document: str, *, containing: str) -> str:
    """Returns the first Python example of a document that contains this."""
    examples = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    return next(code for code in examples if containing in code)


@pytest.mark.parametrize("document", ["README.md", "docs/how-to/register-modules.md"])
def test_fastapi_example_registers_as_passing(serve: Callable[..., Server], tmp_path: Path, document: str) -> None:
    port = free_port()
    (tmp_path / "main.py").write_text(example(document, containing="FastAPI(").replace("8000", str(port)))
    arguments = ["uvicorn", "--app-dir", str(tmp_path), "--port", "{port}", "main:app"]
    server = serve(*arguments, name="backend-api", port=port)
    wait_until(server.is_registered, 30, "the registration")
    assert server.health() == "passing"


def test_script_example_is_passing_while_it_runs(
    consul_agent: ConsulAgent, http_service: Callable[..., HttpService], tmp_path: Path
) -> None:
    def answer(handler, request):
        wait_until(lambda: consul_agent.request("GET", "/v1/health/service/worker?passing"), 8, "the script to pass")
        backend.plain_answer(handler, request)

    backend = http_service(answer=answer)
    instance = {"Name": "backend-api", "Address": backend.host, "Port": backend.port}
    consul_agent.request("PUT", "/v1/agent/service/register", body=instance)
    script = tmp_path / "worker.py"
    script.write_text(example("README.md", containing="registered("))
    subprocess.run(
        [sys.executable, script],
        cwd=ROOT,
        env=os.environ | consul_agent.env | {"PYTHONPATH": str(ROOT)},
        timeout=60,
        check=True,
    )
    assert [request.path for request in backend.requests] == ["/publish"]
    assert consul_agent.request("GET", "/v1/health/service/worker") == []
    consul_agent.forget_services()
