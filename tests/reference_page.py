"""Makes docs/reference.md of the code: `python -m tests.reference_page`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import Metric

from relay.errors import RelayError
from relay.telemetry.metrics import REGISTRY

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/reference.md"
LEVELS = ("debug", "info", "warning", "error", "exception", "critical")

HEAD = """# Reference

Every option, error code, metric and event of the log, made of the code. The operations of the API are at `/docs` of a
running relay, and the commands in `relay --help`.

- [Options](#options), [error codes](#error-codes), [metrics](#metrics), [events of the log](#events-of-the-log)
"""


def page() -> str:
    """Write the page."""
    parts = (
        ("Options", "An environment variable wins over `config/relay.toml`, whose comments say more.", _options()),
        ("Error codes", "Each error of the API has its `code`; `errors` says where in a request.", _errors()),
        ("Metrics", "Served at `/metrics`, for Prometheus.", _metrics()),
        ("Events of the log", "With `LOG_FORMAT=json` the text is the member `event`.", _log_events()),
    )
    return HEAD + "".join(
        f"\n## {title}\n\n{text}\n\n" + "".join(f"{row}\n" for row in rows) for title, text, rows in parts
    )


def _options() -> Iterator[str]:
    yield "| variable | in relay.toml | default |"
    yield "|---|---|---|"
    text = (ROOT / "config/relay.toml").read_text("utf-8")
    for name, default, variable in re.findall(r"^# ([a-z_]+) = (.*?)\s+# ([A-Z_]+)", text, re.MULTILINE):
        yield f"| `{variable}` | `{name}` | `{default}` |"


def _errors() -> Iterator[str]:
    yield "| code | status | title |"
    yield "|---|---|---|"
    kinds = {kind for kind in _below(RelayError) if kind.__module__ == "relay.errors"}
    for kind in sorted(kinds, key=lambda kind: (kind.status, kind.code)):
        yield f"| `{kind.code}` | {kind.status} | {' '.join((kind.__doc__ or '').split())} |"


def _below(kind: type[RelayError]) -> Iterator[type[RelayError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _below(child)


def _metrics() -> Iterator[str]:
    yield "| metric | kind | labels | meaning |"
    yield "|---|---|---|---|"
    described = {metric.name: metric for collector in REGISTRY._collector_to_names for metric in collector.describe()}
    labels = {
        metric.name: getattr(collector, "_labelnames", ())
        for collector in REGISTRY._collector_to_names
        for metric in collector.describe()
    }
    for name in sorted(described):
        metric: Metric = described[name]
        if name.startswith("relay_"):
            suffix = "_total" if metric.type == "counter" else ""
            shown = ", ".join(f"`{label}`" for label in labels[name])
            yield f"| `{name}{suffix}` | {metric.type} | {shown} | {metric.documentation} |"


def _log_events() -> Iterator[str]:
    yield "| event | level | from |"
    yield "|---|---|---|"
    found = set[tuple[str, str, str]]()
    for file in sorted((ROOT / "relay").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_bytes())):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="log"), attr=level), args=[ast.Constant(value=str(event)), *_]
                ) if level in LEVELS:
                    place = file.relative_to(ROOT / "relay").with_suffix("").as_posix()
                    found.add((event, "error" if level == "exception" else level, place))
    for event, level, place in sorted(found):
        yield f"| {event} | {level} | `{place}` |"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
