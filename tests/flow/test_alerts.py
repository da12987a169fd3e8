"""The operator is told of troubles where RELAY_ALERTS says, with signed events, once and once more when it is over."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from relay.channels.alerts import declare_alerts
from relay.channels.targets import Targets
from relay.errors import ConfigError
from relay.model.event import EventType
from relay.model.trouble import Trouble
from relay.settings.sources import load
from relay.store import Database, alerts, apps, invariants, troubles
from relay.store.schema import targets
from tests.support import rows
from tests.support.deployment import SECRET, deployment, environment
from tests.support.maker import always, making
from tests.support.parties import Answer, Post, Receiver, Upstream, done, until
from tests.support.rows import NOW

HOUR = 3_600_000
TROUBLE = Trouble("upstream:p", EventType.UPSTREAM_REFUSED, NOW, "p refuses", "check P_API_KEY", {"provider": "p"})


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.app.TROUBLES_EVERY", 0.1)


@pytest.mark.anyio
async def test_the_operator_is_told_that_an_upstream_refuses_and_that_it_is_well(
    database_url: str, upstream: Upstream, receiver: Receiver
) -> None:
    upstream.default = Answer(b'{"error": {"message": "Invalid token"}}', 401)
    alerted = f"{receiver.url}/alerts"
    environ = environment(database_url, UNIFIED_VIDEO_BASE_URL=upstream.url, RELAY_ALERTS=f"{alerted}, {alerted}/two")
    async with deployment(environ) as relay:
        await relay.register("task", f"{receiver.url}/hook")
        (told,) = await receiver.wait_for(1, "/alerts")
        assert told.event["type"] == "relay.upstream_refused"
        data = told.event["data"]
        assert (data["state"], data["subject"]) == ("unwell", "upstream:unified-video")
        assert data["remedy"] == "check UNIFIED_VIDEO_API_KEY"
        assert data["detail"] == {"provider": "unified-video", "trouble": "refused", "status": 401}
        upstream.default = done()
        well = (await receiver.wait_for(2, "/alerts"))[1]
        assert (well.event["type"], well.event["data"]["state"]) == ("relay.upstream_refused", "well")
        await receiver.wait_for(2, "/alerts/two")
        await receiver.wait_for(1, "/hook")
        receiver.verify(SECRET)
        assert len({post.webhook_id for post in receiver.posts}) == 5
        assert len((await relay.http.get("/v1/watches")).json()["data"]) == 1, "the app sees nothing of it"
        assert await relay.relay.db.run(invariants.find_violations) == []


@pytest.mark.anyio
async def test_a_create_of_which_nobody_knows_is_told_once(database_url: str, receiver: Receiver) -> None:
    async with making() as maker:
        maker.answer = always({"error": "oh"}, 500)
        environ = environment(database_url, UNIFIED_VIDEO_BASE_URL=maker.url, RELAY_ALERTS=f"{receiver.url}/alerts")
        async with deployment(environ) as relay:
            for number in (1, 2):
                answer = await relay.http.post("/v1/video/create", json={"order": number})
                assert answer.status_code == 500
                told = (await receiver.wait_for(number, "/alerts"))[-1].event
                (row, *_) = (await relay.http.get("/v1/submissions")).json()["data"]
                assert (told["type"], told["data"]["state"]) == ("relay.submission_unknown", "unwell")
                assert told["data"]["detail"]["submission"] == row["id"]
                assert told["data"]["detail"]["provider"] == "unified-video"
                assert told["data"]["remedy"]
            maker.answer = always({"message": "no"}, 400)
            await relay.http.post("/v1/video/create", json={})
            db = relay.relay.db
            assert len(await db.run(troubles.standing, EventType.SUBMISSION_UNKNOWN)) == 2
            assert await db.run(invariants.find_violations) == []
            assert row["id"] in (await relay.http.get("/")).text, "it stands among what needs attention"

            async def measured() -> bool:
                return "relay_submissions_unknown 2.0" in (await relay.http.get("/metrics")).text

            await until(measured)
    receiver.verify(SECRET)
    assert len(receiver.posts) == 2, "each is told once"


@pytest.mark.anyio
async def test_a_dead_delivery_is_told_but_never_one_of_an_alert(
    database_url: str, upstream: Upstream, receiver: Receiver
) -> None:
    upstream.default = done()
    receiver.scripts["/gone"] = Answer(status=410)
    receiver.scripts["/broken"] = Answer(status=410)
    places = f"{receiver.url}/broken,{receiver.url}/alerts"
    environ = environment(database_url, UNIFIED_VIDEO_BASE_URL=upstream.url, RELAY_ALERTS=places)
    async with deployment(environ) as relay:
        watch = await relay.register("task", f"{receiver.url}/gone")

        def told() -> list[Post]:
            return [post for post in receiver.to("/alerts") if post.event["type"] == "relay.delivery_dead"]

        async def dead() -> bool:
            return len(told()) > 0

        await until(dead)
        assert told()[0].event["data"]["detail"]["watch_id"] == watch["id"]

        async def alert_is_dead() -> bool:
            count = sa.text("SELECT count(*) FROM deliveries WHERE state = 'dead' AND event_type LIKE 'relay.%'")
            return bool(await relay.relay.db.run(lambda tx: tx.execute(count).scalar()))

        await until(alert_is_dead)
        receiver.scripts["/gone"] = Answer()
        (delivery,) = await relay.deliveries(state="dead")
        assert (await relay.http.post(f"/v1/deliveries/{delivery['id']}/retry")).status_code == 202

        async def well() -> bool:
            return told()[-1].event["data"]["state"] == "well"

        await until(well)
        subjects = {post.event["data"]["subject"] for post in told()}
        assert len(subjects) == 1, "nothing about the place of the alerts themselves"


def tell(db: Database, now: int) -> int:
    return db.run_here(alerts.tell_operator, now).made


def test_a_subject_is_told_at_most_once_an_hour_and_what_lasts_is_not_lost(db: Database, alerting: str) -> None:
    assert tell(db, NOW) == 0
    db.run_here(troubles.begin, TROUBLE, NOW)
    assert [tell(db, NOW), tell(db, NOW + 1)] == [1, 0]
    db.run_here(troubles.over, ["upstream:p"], NOW + 2)
    assert [tell(db, NOW + 2), tell(db, NOW + 3)] == [1, 0]
    db.run_here(troubles.begin, TROUBLE, NOW + 4)
    assert tell(db, NOW + 4) == 0, "it was told within the hour"
    db.run_here(troubles.over, ["upstream:p"], NOW + 5)
    assert tell(db, NOW + 5) == 0, "nobody heard that it began again"
    db.run_here(troubles.begin, TROUBLE, NOW + 6)
    assert tell(db, NOW + HOUR) == 1
    db.run_here(troubles.over, ["upstream:p"], NOW + HOUR)
    db.run_here(troubles.begin, TROUBLE, NOW + HOUR)
    assert tell(db, NOW + HOUR + 1) == 0, "as if it had never been well"
    db.run_here(alerts.forget, NOW + HOUR + 2, NOW + HOUR + 2)
    assert len(db.run_here(troubles.standing, EventType.UPSTREAM_REFUSED)) == 1


@pytest.fixture
def alerting(db: Database) -> str:
    """The app that alerts belong to, with one target."""
    app_id = rows.app(db, apps.ALERTS_APP)
    db.run_here(alerts.declare, app_id, [rows.target()], NOW)
    return app_id


def test_targets_follow_the_configuration(db: Database, alerting: str) -> None:
    def places() -> list[str]:
        return sorted(db.run_here(lambda tx: tx.execute(sa.select(targets.c.place)).scalars().all()))

    kept, new = rows.target("kept"), rows.target("new")
    db.run_here(alerts.declare, alerting, [kept], NOW)
    db.run_here(alerts.declare, alerting, [kept, new], NOW)
    assert places() == ["kept", "new"]
    db.run_here(alerts.declare, alerting, [], NOW)
    assert places() == []
    db.run_here(troubles.begin, TROUBLE, NOW)
    assert tell(db, NOW) == 0
    db.run_here(alerts.declare, alerting, [new], NOW)
    assert tell(db, NOW) == 1, "what lasts is told as soon as there is a place for it"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("ops", "must be a channel of Slack"),
        ("#ops", "relay needs SLACK_BOT_TOKEN"),
        ("https://", "RELAY_ALERTS: a part of it"),
    ],
)
def test_a_wrong_place_stops_the_start(db: Database, value: str, why: str) -> None:
    settings = load({"RELAY_ALERTS": value})
    with pytest.raises(ConfigError, match=why):
        declare_alerts(db, None, settings, Targets({}, None), NOW)  # type: ignore[arg-type]
    assert db.run_here(apps.every) == []
