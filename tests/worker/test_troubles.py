"""What goes wrong is in the log once, and again once it is over, however many watches wait."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from relay.model.event import EventType
from relay.model.trouble import Trouble
from relay.store import Database, troubles
from tests.support import rows
from tests.support.deployment import Deployment
from tests.support.parties import Answer, Receiver, Upstream, until
from tests.support.rows import NOW

TROUBLE = Trouble("upstream:p", EventType.UPSTREAM_REFUSED, NOW, "p refuses", "check P_API_KEY", {"provider": "p"})


async def _now(value: object) -> object:
    return value


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.app.TROUBLES_EVERY", 0.1)


@pytest.mark.anyio
async def test_a_wrong_key_is_in_the_log_once_with_what_to_look_at(
    relay: Deployment, upstream: Upstream, receiver: Receiver
) -> None:
    upstream.default = Answer(b'{"error": {"message": "Invalid token sk-upstream"}}', 401)
    with capture_logs() as logs:
        for number in range(20):
            await relay.register(f"task-{number}", f"{receiver.url}/hook")

        def said(event: str) -> list[dict[str, object]]:
            return [dict(entry) for entry in logs if entry["event"] == event]

        await until(lambda: _now(said("upstream is in trouble")))
        (warning,) = said("upstream is in trouble")
        assert warning["log_level"] == "warning"
        assert warning["remedy"] == "check UNIFIED_VIDEO_API_KEY"
        assert (warning["provider"], warning["status"]) == ("unified-video", 401)
        assert 0 < int(str(warning["watches_waiting"])) <= 20
        assert "Invalid token" in str(warning["message"])
        assert "sk-upstream" not in str(logs)
        upstream.default = Answer(b'{"id": "task", "status": "pending"}')
        await until(lambda: _now(said("upstream answers well again")))
        assert len(said("upstream is in trouble")) == 1
        assert len(said("upstream answers well again")) == 1


@pytest.mark.anyio
async def test_a_first_failed_attempt_is_in_the_log_with_its_status_and_the_next_time(
    relay: Deployment, upstream: Upstream, receiver: Receiver
) -> None:
    receiver.scripts["/hook"] = Answer(status=500)
    upstream.default = Answer(b'{"id": "task", "status": "completed", "video_url": "https://cdn.example/v.mp4"}')
    with capture_logs() as logs:
        await relay.register("task", f"{receiver.url}/hook")
        await until(lambda: _now([entry for entry in logs if entry["event"] == "dead"]))
    (warning,) = [entry for entry in logs if entry["event"] == "not delivered yet"]
    assert (warning["log_level"], warning["status"], warning["error"]) == ("warning", 500, "http_500")
    assert warning["delivery_ids"].startswith("dlv_")
    assert warning["next_attempt_at"].endswith("Z")


def test_a_trouble_lasts_until_it_is_over_or_nobody_asks(db: Database) -> None:
    db.run_here(troubles.begin, TROUBLE, NOW)
    db.run_here(troubles.begin, TROUBLE, NOW + 60_000)
    (row,) = db.run_here(troubles.standing, EventType.UPSTREAM_REFUSED)
    assert (row.since, row.seen_at) == (NOW, NOW + 60_000)
    rows.watch(db, rows.app(db), "task")
    db.run_here(troubles.end_unasked, NOW)
    assert len(db.run_here(troubles.standing, EventType.UPSTREAM_REFUSED)) == 1
    db.run_here(troubles.over, ["upstream:p"], NOW + 1)
    assert db.run_here(troubles.standing, EventType.UPSTREAM_REFUSED) == []
    other = Trouble("upstream:q", EventType.UPSTREAM_REFUSED, NOW, "q refuses", "", {"provider": "q"})
    db.run_here(troubles.begin, other, NOW)
    db.run_here(troubles.end_unasked, NOW)
    assert db.run_here(troubles.standing, EventType.UPSTREAM_REFUSED) == []
