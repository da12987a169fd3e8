"""An upstream in trouble is noticed by several answers in a row, once, and so is its end."""

from pathlib import Path

import pytest

from relay.model.reading import Kind, Problem, Reading
from relay.outbound.prepared import OverHttpx
from relay.providers.definition import load_definition
from relay.providers.provider import Provider
from relay.providers.troubles import MANY, MAX_KEYS, SILENT_FOR, Heard, UpstreamTroubles
from relay.simulators.upstream import SandboxTransport
from relay.telemetry import metrics

FILE = Path(__file__).parents[2] / "config/providers/unified-video.toml"
WELL = Reading(Kind.PENDING, "queued")


def not_answered(code: str, **more: bool) -> Reading:
    return Reading(Kind.NOT_ANSWERED, error=Problem(code=code, message=f"it says {code}"), **more)


REFUSED = not_answered("unauthorized")
BUSY = not_answered("http_503")
UNROUTED = not_answered("http_404", no_route=True)
LIMITED = not_answered("rate_limited")
PAGE = Reading(Kind.NOT_UNDERSTOOD, error=Problem(code="not_json", message="a page"))


class Hearing:
    """An upstream whose answers are heard, a second apart."""

    def __init__(self) -> None:
        definition = load_definition(FILE, {"UNIFIED_VIDEO_BASE_URL": "https://up.example"})
        self.provider = Provider(definition, "sk-1", OverHttpx(SandboxTransport()))
        self.troubles = UpstreamTroubles()
        self.now = 0

    def hear(self, *readings: Reading, own_key: str | None = None, task: str = "task") -> None:
        for reading in readings:
            self.now += 1000
            self.troubles.heard(Heard(self.provider, own_key, task, reading, 401, self.now))

    @property
    def begun(self) -> list[str]:
        news = self.troubles.news()
        return [trouble.detail["trouble"] for trouble in news.begun]


@pytest.fixture
def upstream() -> Hearing:
    hearing = Hearing()
    hearing.hear(WELL)
    hearing.troubles.news()
    return hearing


def test_a_key_that_is_refused_is_said_once_and_so_is_its_end(upstream: Hearing) -> None:
    upstream.hear(*[REFUSED] * (MANY - 1))
    assert upstream.begun == []
    upstream.hear(*[REFUSED] * 1000)
    (trouble,) = upstream.troubles.news().begun
    assert (trouble.remedy, trouble.since) == ("check UNIFIED_VIDEO_API_KEY", 2000)
    assert trouble.message == "unified-video refuses every query: it says unauthorized"
    assert trouble.detail == {"provider": "unified-video", "trouble": "refused", "status": 401}
    assert upstream.troubles.standing == [trouble]
    assert metrics.UPSTREAM_TROUBLE.labels("unified-video", "refused")._value.get() == 1
    upstream.hear(WELL, WELL)
    assert upstream.troubles.news().ended == ["unified-video"]
    assert upstream.troubles.standing == []
    assert metrics.UPSTREAM_TROUBLE.labels("unified-video", "refused")._value.get() == 0


def test_refusals_between_good_answers_are_about_single_tasks(upstream: Hearing) -> None:
    upstream.hear(*[REFUSED, REFUSED, WELL] * 10)
    assert upstream.begun == []


@pytest.mark.parametrize("reading", [BUSY, PAGE, not_answered("timeout")])
def test_silence_must_last(upstream: Hearing, reading: Reading) -> None:
    upstream.hear(*[reading] * (SILENT_FOR // 1000))
    assert upstream.begun == []
    upstream.hear(reading)
    assert upstream.begun == ["silent"]


def test_to_be_limited_is_no_trouble(upstream: Hearing) -> None:
    upstream.hear(*[LIMITED] * 100)
    assert upstream.begun == []


def test_a_router_that_answers_for_many_tasks_has_no_such_address(upstream: Hearing) -> None:
    for task in ("a", "b", "a", "b"):
        upstream.hear(UNROUTED, BUSY, task=task)
    assert upstream.begun == []
    upstream.hear(UNROUTED, task="c")
    (trouble,) = upstream.troubles.news().begun
    assert (trouble.detail["trouble"], trouble.remedy) == ("unrouted", "check UNIFIED_VIDEO_BASE_URL")


def test_what_is_wrong_with_a_watchs_own_key_is_apart_and_bounded(upstream: Hearing) -> None:
    for number in range(MAX_KEYS + 10):
        upstream.hear(*[REFUSED] * MANY, own_key=f"sk-{number}")
    news = upstream.troubles.news()
    assert len(news.own_begun) == MAX_KEYS + 10
    assert news.begun == []
    assert upstream.troubles.standing == []
    upstream.hear(WELL)
    assert upstream.troubles.news().ended == []
    upstream.hear(WELL, own_key=f"sk-{MAX_KEYS + 9}")
    assert upstream.troubles.news().own_ended == ["unified-video"]


def test_the_first_good_answer_of_a_process_says_so() -> None:
    upstream = Hearing()
    upstream.hear(REFUSED, WELL, WELL)
    assert upstream.troubles.news().well == ["unified-video"]
