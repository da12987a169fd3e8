"""The workspace as a web page, so that a person can look at what relay said the way Slack would show it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

from relay.standin.mrkdwn import Span, Spans, local, parse, time_of_day, with_emoji
from relay.standin.workspace import Channel, Message, Workspace

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "img-src http://127.0.0.1:* http://localhost:*; base-uri 'none'; form-action 'none'"
}
"""Nothing is fetched from elsewhere, and nothing runs."""

LOOPBACK = ("127.0.0.1", "localhost")

TAGS = {
    "bold": Markup("<b>{}</b>"),
    "italic": Markup("<i>{}</i>"),
    "strike": Markup("<s>{}</s>"),
    "code": Markup("<code>{}</code>"),
    "mention": Markup('<span class="mention">{}</span>'),
    "text": Markup("<p>{}</p>"),
    "quote": Markup("<blockquote>{}</blockquote>"),
    "pre": Markup("<pre>{}</pre>"),
}

_template = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
).get_template("page.html")


def render_page(workspace: Workspace, refresh: int | None = None, pictures: Mapping[str, str] | None = None) -> str:
    """All channels, one below the other; `refresh` makes the browser ask again every so many seconds.

    `pictures` says where on this machine pictures can be seen that are elsewhere.
    """
    names = workspace.names()
    return _template.render(
        workspace=workspace,
        refresh=refresh,
        rich=partial(rich, names=names),
        plain=lambda text: with_emoji(text["text"]),
        clock=lambda ts: time_of_day(local(ts)),
        days=_days,
        author=lambda message: message.get("bot_profile", {}).get("name") or message.get("username", ""),
        seen_at=lambda url: (pictures or {}).get(url, url),
        is_local=lambda url: urlsplit(url).hostname in LOOPBACK,
        web_link=_web_link,
    )


def rich(text: Mapping[str, Any], names: Mapping[str, str]) -> Markup:
    """A text object as HTML."""
    if text["type"] == "plain_text":
        return TAGS["text"].format(_lines(with_emoji(text["text"])))
    parts = parse(text["text"], names, verbatim=text.get("verbatim", False))
    return Markup("").join(TAGS[part.kind].format(_html(part.spans)) for part in parts)


def _html(spans: Spans) -> Markup:
    return Markup("").join(_lines(span) if isinstance(span, str) else _element(span) for span in spans)


def _element(span: Span) -> Markup:
    inside = _html(span.inside)
    if span.kind != "link":
        return TAGS[span.kind].format(inside)
    url = _web_link(span.url)
    return Markup('<a href="{}" rel="noreferrer">{}</a>').format(url, inside) if url else inside


def _lines(text: str) -> Markup:
    return Markup("<br>").join(escape(line) for line in text.split("\n"))


def _web_link(url: str) -> str:
    """The URL, unless following it could run something."""
    return url if urlsplit(url).scheme in ("http", "https", "mailto") else ""


def _days(channel: Channel) -> list[tuple[str, list[Message]]]:
    """The messages of a channel by day."""
    today = datetime.now(UTC).astimezone().date()
    return [
        ("Today" if day == today else f"{day:%A, %B} {day.day}", list(messages))
        for day, messages in groupby(channel.timeline(), key=lambda message: local(message["ts"]).date())
    ]
