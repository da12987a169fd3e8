"""docs/reference.md says what the code says, docs/README.md leads to every page, and the changelog has this version."""

from __future__ import annotations

import re
from pathlib import Path

from relay import __version__
from tests.reference_page import PAGE, page

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_is_that_of_the_code() -> None:
    assert PAGE.read_text("utf-8") == page(), "python -m tests.reference_page makes it anew"


def test_the_index_leads_to_every_page() -> None:
    index = (DOCS / "README.md").read_text("utf-8")
    missing = [file.name for file in DOCS.glob("*.md") if file.name != "README.md" and f"({file.name}" not in index]
    assert not missing


def test_the_changelog_has_this_version_and_releases_with_dates_the_newest_first() -> None:
    headings = re.findall(r"^## (.*)$", (DOCS / "changelog.md").read_text("utf-8"), re.MULTILINE)
    releases = [heading.split(" ", 1) for heading in headings if heading != "Unreleased"]
    assert headings.index(" ".join(releases[0])) <= 1, "what is not released stands first"
    assert releases[0][0] == __version__
    dates = [date for _, date in releases]
    assert all(re.fullmatch(r"\(\d{4}-\d\d-\d\d\)", date) for date in dates)
    assert dates == sorted(dates, reverse=True)
