"""Whatever the OpenAPI document allows or forbids, thrown at relay by schemathesis: it finds nothing.

Over HTTP, on a port, since a request that schemathesis hands to an ASGI application has an event loop of its own each
time, and relay's connections belong to one. It runs beside pytest, as anybody would run it against a deployment.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployment import API_KEY, deployment, environment
from tests.support.parties import until

pytestmark = pytest.mark.anyio

SEED, EXAMPLES = 20261122, 10

PHASES = {"sqlite": ("Examples", "Coverage", "Fuzzing", "Stateful"), "postgresql": ("Coverage",)}

# What a schema cannot say: which places a target may have here, that a batch is judged item by item, that a watch which
# was stopped can still be read, and what an upstream thinks of an id.
CONFIG = """
seed = {seed}
request-timeout = 30
[generation]
max-examples = {examples}
database = "none"
[[operations]]
include-operation-id = ["registerWatch", "testTarget"]
checks.positive_data_acceptance.expected-statuses = ["2xx", 422]
[[operations]]
include-operation-id = "registerWatches"
checks.negative_data_rejection.expected-statuses = [200, 400, 401, 415, 422]
[[operations]]
include-tag = "Submit and watch"
checks.positive_data_acceptance.expected-statuses = ["2xx", "4xx"]
checks.negative_data_rejection.expected-statuses = ["2xx", "4xx"]
[[operations]]
include-operation-id = "queryVideo"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400]
"""


@pytest.fixture
def nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A world without names, so that whatever URL comes up, nobody is called."""
    look_up = socket.getaddrinfo

    def getaddrinfo(host: Any, *more: Any, **options: Any) -> Any:
        if host not in (None, "127.0.0.1"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.usefixtures("nameless")
async def test_schemathesis_finds_nothing(database_url: str, tmp_path: Path) -> None:
    phases = PHASES[database_url.partition(":")[0]]
    (tmp_path / "schemathesis.toml").write_text(CONFIG.format(seed=SEED, examples=EXAMPLES), "utf-8")
    environ = environment(
        database_url,
        RELAY_PROVIDER="sandbox",
        RELAY_RATE_LIMIT="100000",
        RELAY_RETRY_SCHEDULE="0s",
        RELAY_EXPIRES_IN="1s",  # so that streams end
        RELAY_EGRESS_PROXY="http://127.0.0.1:9",  # where nobody listens
    )
    async with deployment(environ) as relay:
        for number in range(3):  # something to find
            await relay.register(f"sandbox:complete-in-0s#{number}", "https://app.example/hook")
        await until(lambda: relay.deliveries(state="dead"))
        process = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("st"),
            "--no-color",
            "run",
            f"{relay.url}/openapi.json",
            *("--url", relay.url, "--header", f"Authorization: Bearer {API_KEY}", "--checks", "all"),
            *("--exclude-checks", "use_after_free", "--phases", ",".join(phases).lower()),
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "COLUMNS": "120", "NO_PROXY": "*"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await asyncio.wait_for(process.communicate(), 110)
        paths = (await relay.http.get("/openapi.json")).json()["paths"]
    report = said.decode("utf-8", "replace")
    assert process.returncode == 0, report[report.find("= FAILURES =") :]
    assert re.search(rf"Tested: {sum(map(len, paths.values()))}\b", report), report
    assert all(f"✅ {phase}" in report for phase in phases), report
    (cases,) = re.findall(r"(\d+) generated", report)
    assert int(cases) > 300, report
