"""Makes docs/providers.md of the provider files: `python -m tests.providers_page`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

from relay.providers.definition import Definition, load_definition
from relay.providers.overview import head_comment, interval, limits, to_set

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/providers.md"

HEAD = """# Providers

What relay can watch: one file of [config/providers](../config/providers) each. `relay providers show NAME` prints one
of them, and [Add a provider](add-a-provider.md) says how to write another.

- **watches** is what a task is called in Slack and on the dashboard.
- **to set**: the variables without which it cannot be asked. A watch may bring its own key instead, as `upstream_key`,
  and where the file lists `hosts` its own address, as `upstream_base`.
- **asked after**: the seconds to the first query, and those between two queries in the end.
- **limits**: how much it is asked, for each key.
- **evidence**: the recorded answers that relay is tested with, composed after the documentation that the text below
  the table names.

"""


def page() -> str:
    """Write the page."""
    files = sorted((ROOT / "config/providers").glob("*.toml"))
    rows = "".join(f"{row}\n" for row in _table([load_definition(file, {}) for file in files]))
    return HEAD + rows + "".join(map(_section, files))


def _table(definitions: list[Definition]) -> Iterator[str]:
    yield "| name | title | watches | to set | asked after | limits | evidence |"
    yield "|---|---|---|---|---|---|---|"
    for one in definitions:
        variables = ", ".join(f"`{name}`" for name in to_set(one)) or (
            "nothing: a watch brings both" if one.hosts else "nothing"
        )
        cells = (one.title, one.noun, variables, interval(one.cadence), limits(one.budget), _evidence(one.name))
        yield f"| [{one.name}](#{one.name}) | {' | '.join(cells)} |"


def _evidence(name: str) -> str:
    recorded = ROOT / f"tests/answers/{name}/cases.toml"
    if not recorded.exists():
        return "relay plays it"
    count = len(tomllib.loads(recorded.read_text("utf-8"))["case"])
    return f"[{count} answers](../tests/answers/{name}/cases.toml)"


def _section(file: Path) -> str:
    return f"\n## {file.stem}\n\n{_as_text(head_comment(file))}\n"


def _as_text(comment: str) -> str:
    """Escape what Markdown would take for its own."""
    return comment.translate({ord(mark): f"\\{mark}" for mark in "<*["})


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
