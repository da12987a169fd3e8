"""A wrong address of an upstream: refused at the start where it can be seen, noticed in the answers where not."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from relay.errors import ConfigError
from relay.model.reading import Kind, Problem, Reading
from relay.providers.definition import load_definition
from relay.providers.routing import MANY, Routing
from relay.telemetry import metrics

FILE = Path(__file__).parents[2] / "config/providers/unified-video.toml"
UNROUTED = Reading(Kind.NOT_ANSWERED, error=Problem(code="http_404", message="no Route matched"), no_route=True)
BUSY = Reading(Kind.NOT_ANSWERED, error=Problem(code="http_503", message="busy"))


@pytest.mark.parametrize(
    ("base_url", "instead"),
    [
        ("https://x.example/v1", "https://x.example"),
        ("https://x.example/v1/", "https://x.example"),
        ("https://x.example/V1", "https://x.example"),
        ("https://x.example/api/v1", "https://x.example/api"),
        ("https://x.example:8443/v1/video", "https://x.example:8443"),
        ("https://x.example/v1/video/query", "https://x.example"),
    ],
)
def test_an_address_that_ends_in_what_the_path_begins_with_is_refused(base_url: str, instead: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_definition(FILE, {"UNIFIED_VIDEO_BASE_URL": base_url})
    assert refused.value.detail.startswith(f"UNIFIED_VIDEO_BASE_URL: {base_url.rstrip('/')} ends in '/v1")
    assert refused.value.detail.endswith(f"leave it out, {instead}")


def test_a_file_with_such_an_address_is_named(tmp_path: Path) -> None:
    (tmp_path / "unified-video.toml").write_bytes(FILE.read_bytes())
    (tmp_path / "other.toml").write_text('extends = "unified-video"\n[request]\nbase_url = "https://x.example/v1"\n')
    with pytest.raises(ConfigError, match=r"other\.toml: request: https://x\.example/v1 ends in '/v1'"):
        load_definition(tmp_path / "other.toml", {})


@pytest.mark.parametrize(
    "base_url", ["https://x.example", "https://x.example/api", "https://x.example/v2", "https://v1", "https://x.v1/v"]
)
def test_other_addresses_are_taken(base_url: str) -> None:
    assert load_definition(FILE, {"UNIFIED_VIDEO_BASE_URL": base_url}).request.base_url == base_url


def gauge(provider: str) -> float:
    return metrics.UPSTREAM_UNROUTED.labels(provider)._value.get()


def test_a_router_that_answers_for_many_tasks_is_said_once_and_so_is_its_end() -> None:
    routing, name = Routing(), "routing-test"
    with capture_logs() as logs:
        for _ in range(5):
            for task in ("a", "b"):
                routing.heard(name, task, UNROUTED, "check X")
        assert logs == []
        for task in ("c", "d", "a", "c"):
            routing.heard(name, task, UNROUTED, "check X")
            routing.heard(name, task, BUSY, "check X")
        assert [(entry["event"], entry["provider"], entry["remedy"]) for entry in logs] == [
            ("upstream address looks wrong", name, "check X")
        ]
        assert gauge(name) == 1
        routing.heard("another", "a", Reading(Kind.PENDING, "queued"), "check Y")
        assert gauge(name) == 1
        routing.heard(name, "a", Reading(Kind.PENDING, "queued"), "check X")
        routing.heard(name, "a", Reading(Kind.PENDING, "queued"), "check X")
    assert [entry["event"] for entry in logs[1:]] == ["upstream address answers again"]
    assert gauge(name) == 0


def test_answers_about_a_task_between_them_speak_for_the_address() -> None:
    routing = Routing()
    with capture_logs() as logs:
        for number in range(3 * MANY):
            routing.heard("between", str(number), UNROUTED, "check X")
            if number % 2:
                routing.heard("between", "x", Reading(Kind.UNKNOWN_TASK), "check X")
    assert logs == []
