"""What people read in Slack: the right words for each end, strangers' words defused, no more than Slack takes."""

import asyncio
import functools
import re
from typing import Any

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ulid import ULID

from relay.channels.slack.message import Layout, SlackMessage, terminal_message
from relay.model.event import EventType
from relay.simulators.slack import Conversation, SimulatedSlack, WorkspaceOptions

WATCH = f"wch_{ULID((1759763268_000).to_bytes(6, 'big') + bytes(10))}"  # registered on 2025-10-06 at 15:07:48 UTC
URL = "https://cdn.example/1.mp4?se=2025-10-12&sig=a%2Bb"
EXPIRES = 1760281461  # 2025-10-12 15:04:21 UTC
FSI, PDI = "\u2068", "\u2069"


def event(kind: str = "task.completed", **data: Any) -> dict[str, Any]:
    known = {
        "watch_id": WATCH,
        "task_id": "sora-2:task_1",
        "provider": "unified-video",
        "state": kind.removeprefix("task."),
        "result": None,
        "error": None,
        "metadata": {},
    }
    return {"type": kind, "timestamp": "2025-10-06T15:14:11.908Z", "data": known | data}


def completed(prompt: str = "make animate", upstream: Any = None, **result: Any) -> SlackMessage:
    upstream = upstream or {"detail": {"input": {"prompt": prompt, "model": "sy_ore"}}}
    return terminal_message(event(result={"url": URL} | result, upstream=upstream))


def failed(code: str, message: str, kind: str = "task.failed") -> SlackMessage:
    return terminal_message(event(kind, error={"code": code, "message": message}))


def shown(message: SlackMessage) -> list[str]:
    """The texts of the blocks, one after the other."""
    texts = [block["text"]["text"] for block in message.blocks if block["type"] == "section"]
    facts = [element["text"] for block in message.blocks if block["type"] == "context" for element in block["elements"]]
    return [*texts, *facts]


def prompt_of(message: SlackMessage) -> str:
    [prompt] = [text[1:-1] for text in shown(message) if text.startswith("“")]
    return prompt


# Each kind of event


def test_completed() -> None:
    message = completed(
        thumbnail_url="https://cdn.example/1.png", width=352, height=640, expires_at="2025-10-12T15:04:21.000Z"
    )
    link = "<https://cdn.example/1.mp4?se=2025-10-12&amp;sig=a%2Bb|Open the result>"
    date = f"<!date^{EXPIRES}^{{date_short_pretty}} {{time}}|2025-10-12 15:04 UTC>"
    assert shown(message) == [
        f":white_check_mark: *Task finished*\n{link} · the link expires {date}",
        "“make animate”",
        "model `sora-2`",
        "352 × 640",
        "watched for 6 min 24 s",
        "task `sora-2:task_1`",
    ]
    assert message.text == (
        f"Task finished: “make animate”\n{link} · the link expires {date}\n"
        "model sora-2, 352 × 640, watched for 6 min 24 s, task sora-2:task_1"
    )
    assert message.metadata == {
        "event_type": "relay_task",
        "event_payload": {
            "watch_id": WATCH,
            "task_id": "sora-2:task_1",
            "provider": "unified-video",
            "state": "completed",
        },
    }
    [image] = [block for block in message.blocks if block["type"] == "image"]
    assert (image["image_url"], image["alt_text"]) == (
        "https://cdn.example/1.png",
        "Preview of the result: make animate",
    )
    assert image not in message.laid_out(Layout.NO_IMAGES).blocks
    assert message.plainer(Layout.FULL, "invalid_blocks") is Layout.NO_IMAGES
    assert message.laid_out(Layout.NO_IMAGES).plainer(Layout.FULL, "invalid_blocks") is Layout.TEXT


def test_completed_with_little_known() -> None:
    message = terminal_message({"type": "task.completed"})
    assert shown(message) == [
        ":white_check_mark: *Task finished*\nThe provider gave no link to the result: look the task up there."
    ]
    assert message.metadata is None


@pytest.mark.parametrize(
    ("code", "message", "headline", "advice"),
    [
        ("content_policy_violation", "…", "refused by the content filter", "A retry cannot help"),
        ("output_similarity", "Task failed", "refused by the content filter", "change the prompt"),
        ("failed", "unsafe prompt or images, please change them and try again", "refused by", "change the prompt"),
        ("failure", "图片审核未通过", "refused by the content filter", "change the prompt"),
        ("insufficient_credits", "账户积分不足", "Task failed", "top it up"),
        ("insufficient_quota", "You exceeded your current quota", "Task failed", "top it up"),
        ("rate_limit_exceeded", "You already have 5 tasks in progress", "Task failed", "A retry can help"),
        ("http_503", "…", "Task failed", "A retry can help"),
        ("failed", "generation timed out", "Task failed", "A retry can help"),
        ("failed", "heavy load, try again later", "Task failed", "A retry can help"),
        ("expired", "the upstream says 'expired' and no more", "Task failed", "A retry can help"),
        ("invalid_api_key", "…", "Task failed", "API key"),
        ("invalid_parameter", "unsupported size", "Task failed", "correct the request"),
        ("failed", "duration must be 6 or 10", "Task failed", "correct the request"),
        ("cancelled", "Cancelled by the operator", "Task cancelled at the provider", "If that was not meant"),
        ("failed", "Task failed", "Task failed", "One retry is worth it"),
        ("", "", "Task failed", "gives no reason"),
    ],
)
def test_failed_tells_whether_a_retry_can_help(code: str, message: str, headline: str, advice: str) -> None:
    told = failed(code, message)
    assert headline in shown(told)[0]
    for text in (told.text, "\n".join(shown(told))):
        assert headline in text
        assert advice in text
        assert message in text
    assert (f"code `{code}`" in shown(told)) is bool(code)


def test_expired_and_lost_are_told_differently() -> None:
    expired = failed("deadline_passed", "the deadline passed; the upstream last said 'pending'", "task.expired")
    assert shown(expired)[:2] == [
        ":hourglass: *Task not finished in time*",
        "Why: the deadline passed; the upstream last said 'pending'",
    ]
    assert "may still finish" in expired.text
    lost = failed("unknown_task", "task_not_exist", "task.lost")
    assert shown(lost)[:2] == [":grey_question: *Task lost*", "Why: task_not_exist"]
    assert "no longer knows the task" in lost.text
    assert "code `unknown_task`" not in shown(lost)


@pytest.mark.parametrize(("progress", "done"), [(0.42, ": 42%"), (0, ": 0%"), (None, ""), (7, ""), ("x", "")])
def test_progress(progress: Any, done: str) -> None:
    message = terminal_message(event("task.progress", progress=progress))
    assert message.text.startswith(f"Task under way{done}\n")
    assert shown(message)[0] == f":hourglass_flowing_sand: *Task under way{done}*"


def test_a_test() -> None:
    message = terminal_message(
        {"type": "relay.test", "timestamp": "2025-10-06T15:14:11.908Z", "data": {"message": "x"}}
    )
    assert message.text == "relay can post here\nThis is a test. When a task ends, you will read it here."
    assert (len(message.blocks), message.metadata) == (1, None)


def test_an_unknown_type_is_a_bug() -> None:
    with pytest.raises(ValueError, match=r"task\.forgotten"):
        terminal_message(event("task.forgotten"))


# Strangers' words


def test_markup_in_a_prompt_is_shown_as_it_is() -> None:
    prompt = "<!channel> <@U1> *bold* `code` :x: <https://evil.example|click> &amp; @here"
    message = completed(prompt)
    [block] = [block for block in message.blocks if prompt in str(block)]
    assert block["text"] == {"type": "plain_text", "text": f"“{prompt}”", "emoji": False}
    assert "&lt;!channel&gt; &lt;@U1&gt;" in message.text
    assert "&lt;https://evil.example|click&gt; &amp;amp; @here" in message.text


def test_markup_elsewhere_is_escaped() -> None:
    hostile = "`<!channel>` *x*"
    message = terminal_message(
        event("task.failed", task_id=hostile, error={"code": hostile, "message": hostile}, upstream={"model": hostile})
    )
    assert shown(message)[-4:] == [
        "model `'&lt;!channel&gt;' *x*`",
        "code `'&lt;!channel&gt;' *x*`",
        "watched for 6 min 24 s",
        "task `'&lt;!channel&gt;' *x*`",
    ]
    assert all(block["text"]["verbatim"] for block in message.blocks if block.get("text", {}).get("type") == "mrkdwn")
    assert "<!channel>" not in message.text


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        "slack://open",
        "//cdn.example/1.mp4",
        "https://",
        "https:///x",
        "https://a b",
        "https://a.example/<!channel>",
        "https://a.example/\u202egpj.exe",
        "https://a.example/\n1",
        "",
        7,
        {"url": URL},
    ],
)
def test_only_web_links_become_links(url: Any) -> None:
    message = completed(url=url)
    assert "no link to the result" in message.text
    assert "<" not in message.text


def test_a_link_cannot_break_out() -> None:
    assert (
        "<HTTPS://cdn.example/a%7CClick%20me?x=1&amp;y|Open the result>"
        in completed(url="HTTPS://cdn.example/a|Click%20me?x=1&y").text
    )


def test_a_link_that_is_too_long_is_left_out() -> None:
    assert "|Open the result>" in completed(url="https://cdn.example/" + "x" * 2480).text
    message = completed(url="https://cdn.example/" + "x" * 2481)
    assert "too long" in message.text
    assert "cdn.example" not in message.text


@pytest.mark.parametrize("expires", ["soon", "1890-01-01T00:00:00Z", "9999-12-31T23:59:59-12:00", 5, None])
def test_an_expiry_that_makes_no_sense_is_left_out(expires: Any) -> None:
    assert "expires" not in completed(expires_at=expires).text


@pytest.mark.parametrize(
    ("thumbnail", "preview", "expected"),
    [
        ("https://a.example/1.png", "https://a.example/2.gif", "https://a.example/1.png"),
        ("https://a.example/1.webp?se=1", "https://a.example/2.GIF?se=1", "https://a.example/2.GIF?se=1"),
        ("http://a.example/1.png", "https://a.example/2.gif", "https://a.example/2.gif"),
        ("https://a.example/thumb?id=1", None, "https://a.example/thumb?id=1"),
        ("https://a.example/1.webp", "https://a.example/2.mp4", None),
        ("https://a.example/" + "x" * 3000, None, None),
        ("javascript:alert(1)", 5, None),
        (None, None, None),
    ],
)
def test_pictures(thumbnail: Any, preview: Any, expected: str | None) -> None:
    message = completed(thumbnail_url=thumbnail, preview_url=preview)
    assert [block["image_url"] for block in message.blocks if block["type"] == "image"] == [expected] * bool(expected)


# What is read in the upstream's answer


@pytest.mark.parametrize(
    ("upstream", "prompt"),
    [
        ({"prompt": "a"}, "a"),
        ({"detail": {"req": {"prompt": "a"}}}, "a"),
        ({"detail": {"pending_info": {"prompt": "a"}}}, "a"),
        ({"detail": {"input": {"prompt": " "}}}, "better"),
        ({"detail": [{"input": 5}]}, "better"),
        ("nonsense", "better"),
    ],
)
def test_where_a_prompt_is_found(upstream: Any, prompt: str) -> None:
    assert prompt_of(completed(upstream=upstream, enhanced_prompt="better")) == prompt


@pytest.mark.parametrize(
    ("task_id", "upstream", "model"),
    [
        ("sora-2:task_1", {"model": "sora-2-pro"}, "sora-2-pro"),
        ("veo3.1-fast:1770-tri", {"detail": {"input": {"model": "x"}}}, "veo3.1-fast"),
        ("video_5c6a", {"detail": {"input": {"model": "x"}}}, "x"),
        ("video_5c6a", {"detail": {"req": {"model": "y"}}}, "y"),
        ("https://a.example", None, "https"),
        ("video_5c6a", None, None),
    ],
)
def test_where_a_model_is_found(task_id: str, upstream: Any, model: str | None) -> None:
    facts = shown(terminal_message(event(task_id=task_id, upstream=upstream)))
    assert [fact for fact in facts if fact.startswith("model")] == [f"model `{model}`"] * bool(model)


@pytest.mark.parametrize(
    ("at", "watched"),
    [
        ("2025-10-06T15:07:48.100Z", "0 s"),
        ("2025-10-06T15:08:40.000Z", "52 s"),
        ("2025-10-06T15:09:48.000Z", "2 min"),
        ("2025-10-06T17:12:50.000Z", "2 h 5 min"),
        ("2025-10-07T15:07:48.000Z", "1 d"),
        ("2025-10-09T19:10:00.000Z", "3 d 4 h"),
        ("2025-10-06T15:00:00.000Z", None),
        ("now", None),
        (None, None),
    ],
)
def test_how_long_it_was_watched(at: Any, watched: str | None) -> None:
    facts = shown(terminal_message(event() | {"timestamp": at}))
    assert [fact for fact in facts if fact.startswith("watched")] == [f"watched for {watched}"] * bool(watched)


# Cutting


def test_a_long_prompt_is_cut_at_a_word() -> None:
    prompt = prompt_of(completed("a calico kitten " * 100))
    assert 370 < len(prompt) <= 400
    assert re.search(r"(a|calico|kitten)…$", prompt)


@pytest.mark.parametrize(
    "unit", ["👩‍👩‍👧‍👦", "👍🏽", "e\u0301", "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "क्‍ष", "❤️"]
)
@pytest.mark.parametrize("shift", range(12))
def test_no_character_is_cut_in_half(unit: str, shift: int) -> None:
    prompt = prompt_of(completed("x" * shift + unit * 400))
    whole = prompt.removesuffix("…")[shift:]
    assert whole == unit * (len(whole) // len(unit))
    assert len(whole) > 350


@pytest.mark.parametrize("unit", ["\u0301", "🇩🇪", "\u200d", "字"])
def test_what_has_no_seam_is_cut_anyhow(unit: str) -> None:
    assert 360 < len(prompt_of(completed("x" + unit * 1000))) <= 400


def test_space_and_control_characters_do_not_pass() -> None:
    assert prompt_of(completed(" a\n\n\n\tb\x00\x07c \u202egnp.exe\u2067 \x85d ")) == "a bc gnp.exe d"


def test_right_to_left_text_is_isolated() -> None:
    arabic = "قطة تطارد فراشة"
    message = completed(arabic)
    assert prompt_of(message) == f"{FSI}{arabic}{PDI}"
    assert f"“{FSI}{arabic}{PDI}”\n" in message.text
    long = completed(f"{arabic} " * 100)
    assert prompt_of(long).startswith(FSI)
    assert prompt_of(long).endswith(f"…{PDI}")
    assert long.text.count(FSI) == long.text.count(PDI) == 1
    assert FSI not in completed("make animate").text


# Whatever comes

ANY_TEXT = st.text(max_size=60)
LONG_TEXT = st.text(min_size=1, max_size=40).map(lambda text: (text * 10_000)[:10_000])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)
TEXT = LONG_TEXT | ANY_TEXT | JSON
LINK = st.builds(
    "{}://{}".format,
    st.sampled_from(["https", "http", "javascript"]),
    LONG_TEXT.map(lambda text: text[:4000]) | ANY_TEXT,
)


def table(**known: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({}, optional=known) | JSON


EVENTS = st.fixed_dictionaries(
    {
        "type": st.sampled_from([str(kind) for kind in EventType]),
        "timestamp": st.datetimes().map(lambda moment: f"{moment.isoformat()}Z") | JSON,
        "data": table(
            watch_id=st.just(WATCH) | TEXT,
            task_id=TEXT,
            provider=TEXT,
            state=TEXT,
            progress=JSON,
            result=table(
                url=LINK | JSON,
                thumbnail_url=LINK | JSON,
                preview_url=LINK | JSON,
                width=JSON,
                height=JSON,
                enhanced_prompt=TEXT,
                expires_at=st.datetimes().map(str) | JSON,
            ),
            error=table(code=TEXT, message=TEXT),
            upstream=table(
                prompt=TEXT, model=TEXT, detail=table(input=table(prompt=TEXT, model=TEXT), req=table(prompt=TEXT))
            ),
        ),
    }
)


@functools.cache
def simulator() -> SimulatedSlack:
    channels = [Conversation("C0", "renders")]
    return SimulatedSlack(WorkspaceOptions(channels=channels, tokens={"xoxb": ["chat:write"]}, limits=None))


async def verdict(message: SlackMessage) -> dict[str, Any]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(simulator().app), base_url="http://slack") as client:
        body = {"channel": "#renders", "text": message.text, "blocks": message.blocks, "metadata": message.metadata}
        answer = await client.post("/api/chat.postMessage", json=body, headers={"Authorization": "Bearer xoxb"})
    said: dict[str, Any] = answer.json()
    return said


WORST: dict[str, Any] = event(
    "task.failed",
    task_id="&" * 9999,
    error={"code": "&" * 9999, "message": "&" * 9999},
    upstream={"model": "&" * 9999, "prompt": "&" * 9999},
)
LONGEST: dict[str, Any] = event(
    task_id="&" * 9999,
    result={
        "url": "https://cdn.example/" + "x" * 2480,
        "thumbnail_url": "https://cdn.example/" + "x" * 2900,
        "expires_at": "2025-10-12T15:04:21.000Z",
    },
    upstream={"model": "&" * 9999, "prompt": "&" * 9999},
)


@settings(max_examples=300, deadline=None)
@given(EVENTS)
@example(WORST)
@example(LONGEST)
def test_slack_takes_whatever_comes(told: dict[str, Any]) -> None:
    message = terminal_message(told)
    said = asyncio.run(verdict(message))
    assert said["ok"], said
    assert 0 < len(message.text) <= 4000
    links = re.findall(r"<([^>|]*)", message.text)
    assert all(re.match(r"(?i)https?://|!date\^", link) for link in links)


def test_what_matters_is_in_the_text_even_then() -> None:
    assert "One retry is worth it" in terminal_message(WORST).text
    assert "|Open the result>" in terminal_message(LONGEST).text
    assert "expires" in terminal_message(LONGEST).text


@pytest.mark.parametrize(
    ("kind", "headline"),
    [
        ("task.completed", "Transcription finished"),
        ("task.failed", "Transcription failed"),
        ("task.expired", "Transcription not finished in time"),
        ("task.lost", "Transcription lost"),
        ("task.progress", "Transcription under way"),
        ("task.late", "Transcription is taking longer than usual"),
    ],
)
def test_the_headline_has_the_noun_of_the_provider(kind: str, headline: str) -> None:
    message = terminal_message(event(kind), noun="Transcription")
    assert f"*{headline}*" in shown(message)[0]
    assert message.text.startswith(headline)


def test_a_noun_is_no_markup() -> None:
    message = terminal_message(event(), noun="<!here>")
    assert "<!here>" not in message.text + shown(message)[0]


def test_a_result_is_more_than_a_link() -> None:
    """A text, further links, a reference, and that a key is needed: each in the blocks and in the words."""
    links = [f"https://cdn.example/{number}.png" for number in range(1, 14)]
    result = {"url": links[0], "urls": links, "text": "A <b>poem</b> & more", "ref": "s3://bucket/`key`"}
    told = event("task.completed")
    told["data"]["result"] = {**result, "key_needed": True}
    message = terminal_message(told)
    blocks = "\n".join(shown(message))
    for text in (blocks, message.text):
        assert "<https://cdn.example/2.png|2>" in text
        assert "and 3 more" in text
        assert "`s3://bucket/'key'`" in text
        assert "only with the provider's key" in text
    assert "A <b>poem</b> & more" in blocks, "verbatim, so it is no markup"
    assert "A &lt;b&gt;poem&lt;/b&gt; &amp; more" in message.text


@pytest.mark.parametrize("result", [{"text": "A poem"}, {"ref": "file-123"}])
def test_a_result_without_a_link_is_no_missing_link(result: dict[str, str]) -> None:
    told = event("task.completed")
    told["data"]["result"] = result
    assert "gave no link" not in terminal_message(told).text


def test_a_reply_names_its_task() -> None:
    text, blocks = terminal_message(event("task.failed")).brief
    assert "sora-2:task_1" in f"{text}{blocks}"


@pytest.mark.parametrize("state", ["unwell", "well"])
def test_an_alert_says_what_is_wrong_and_what_to_do(state: str) -> None:
    data = {"state": state, "subject": "upstream:p", "message": "p refuses <!channel>", "remedy": "check P_API_KEY"}
    message = terminal_message({**event("relay.upstream_refused"), "data": data})
    assert ("check P_API_KEY" in message.text) is (state == "unwell")
    assert "<!channel>" not in message.text
    assert ("well again" in message.text) is (state == "well")
