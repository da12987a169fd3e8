"""What a process says when it starts: what was perhaps not meant, and addresses that open."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from relay.outbound.prepared import OverHttpx
from relay.settings.sources import load
from relay.simulators.upstream import SandboxTransport
from relay.web.server import link_to, listen
from relay.wiring import load_providers, warn_at_start
from tests.support.deployment import environment
from tests.support.parties import until
from tests.support.processes import serve


def warnings(**environ: str) -> list[dict[str, str]]:
    settings = load(environ)
    providers = load_providers(settings, OverHttpx(SandboxTransport()), environ)
    with capture_logs() as logs:
        warn_at_start(settings, providers, environ)
    assert {entry["log_level"] for entry in logs} <= {"warning"}
    return [dict(entry) for entry in logs]


TOKEN = "a-token-of-8"
SET = {"UNIFIED_VIDEO_BASE_URL": "https://up.example", "UNIFIED_VIDEO_API_KEY": "sk"}


def test_a_misspelt_variable_is_named_with_what_was_meant() -> None:
    (warning,) = warnings(**SET, RELAY_SIGNING_SECRETS="whsec_x", RELAY_URL="http://relay", RELAY_SECRET_KEY_FILE="")
    assert (warning["variable"], warning["hint"]) == ("RELAY_SIGNING_SECRETS", "did you mean RELAY_SIGNING_SECRET?")
    (warning,) = warnings(**SET, RELAY_ZZZ="1")
    assert warning["hint"] == "config/relay.toml lists every option"
    assert "whsec_x" not in str(warnings(**SET, RELAY_SIGNING_SECRETS="whsec_x"))


def test_a_database_that_does_not_last_is_said() -> None:
    (warning,) = warnings(**SET, RELAY_EPHEMERAL="1")
    assert warning["event"].startswith("RELAY_EPHEMERAL is set")


def test_no_upstream_is_said() -> None:
    (warning,) = warnings()
    assert warning["event"] == "no upstream is set; only the sandbox can be watched"
    assert "UNIFIED_VIDEO_BASE_URL" in warning["remedy"]
    assert warnings(**SET) == []
    assert warnings(RUNWAY_API_KEY="key") == []


@pytest.mark.parametrize(("host", "name"), [("0.0.0.0", "localhost"), ("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_an_address_is_shown_as_one_that_opens(host: str, name: str) -> None:
    listener = listen(host, 0)
    port = listener.getsockname()[1]
    listener.close()
    listener = listen(host, port)
    assert link_to(listener) == f"http://{name}:{port}"
    listener.close()


@pytest.mark.anyio
async def test_a_worker_serves_its_health_and_its_metrics(tmp_path: Path) -> None:
    """Nothing else: neither the API nor the dashboard."""
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    listener.close()
    environ = environment(
        f"sqlite:///{tmp_path}/relay.db", RELAY_METRICS_PORT=str(port), RELAY_METRICS_TOKEN="a-token-of-8"
    )
    async with serve(environ, tmp_path, "worker") as worker:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", verify=False) as client:

            async def alive() -> bool:
                assert worker.process.returncode is None, worker.log.read_text()
                try:
                    return (await client.get("/healthz")).status_code == 200
                except httpx.TransportError:
                    return False

            await until(alive)
            assert (await client.get("/metrics")).status_code == 401
            answer = await client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
            assert "relay_oldest_due_seconds" in answer.text
            assert (await client.get("/readyz")).json() == {"status": "ok", "reasons": []}
            assert {(await client.get(path)).status_code for path in ("/", "/v1/watches", "/docs")} == {404}
            assert f":{port}/metrics" in worker.log.read_text()
        assert await worker.stop() == 0
