"""The workspace as a web page, so that a person sees relay's messages as Slack would show them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

from relay.simulators.slack.mrkdwn import Spans, TextSpan, local_time, parse, time_of_day, with_emoji
from relay.simulators.slack.workspace import Conversation, PostedMessage, Workspace, author_name

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "img-src http://127.0.0.1:* http://localhost:*; base-uri 'none'; form-action 'none'"
}
"""Lets the page load pictures from this machine only, and run nothing."""

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


def render_page(workspace: Workspace, refresh: int | None, pictures: Mapping[str, str]) -> str:
    """Render all channels, one below the other.

    Args:
        refresh: seconds after which the browser reloads the page; None for never.
        pictures: URLs on this machine by the URLs of images elsewhere.
    """
    names = workspace.names()
    return _template.render(
        workspace=workspace,
        refresh=refresh,
        rich=partial(_rich, names=names),
        plain=lambda text: with_emoji(text["text"]),
        clock=lambda ts: time_of_day(local_time(ts)),
        days=_days,
        author=author_name,
        seen_at=lambda url: pictures.get(url, url),
        is_local=lambda url: urlsplit(url).hostname in LOOPBACK,
        web_link=_web_link,
    )


def _rich(text: Mapping[str, Any], names: Mapping[str, str]) -> Markup:
    """Return a text object as HTML."""
    if text["type"] == "plain_text":
        return TAGS["text"].format(_lines(with_emoji(text["text"])))
    sections = parse(text["text"], names, verbatim=text.get("verbatim", False))
    return Markup("").join(TAGS[section.kind].format(_html(section.spans)) for section in sections)


def _html(spans: Spans) -> Markup:
    return Markup("").join(_lines(span) if isinstance(span, str) else _element(span) for span in spans)


def _element(span: TextSpan) -> Markup:
    inside = _html(span.inside)
    if span.kind != "link":
        return TAGS[span.kind].format(inside)
    url = _web_link(span.url)
    return Markup('<a href="{}" rel="noreferrer">{}</a>').format(url, inside) if url else inside


def _lines(text: str) -> Markup:
    return Markup("<br>").join(escape(line) for line in text.split("\n"))


def _web_link(url: str) -> str:
    """Return the URL, or nothing if following it could run a script."""
    return url if urlsplit(url).scheme in ("http", "https", "mailto") else ""


def _days(channel: Conversation) -> list[tuple[str, list[PostedMessage]]]:
    """Return the messages of a channel by day."""
    today = datetime.now(UTC).astimezone().date()
    return [
        ("Today" if day == today else f"{day:%A, %B} {day.day}", list(messages))
        for day, messages in groupby(channel.timeline(), key=lambda message: local_time(message["ts"]).date())
    ]
