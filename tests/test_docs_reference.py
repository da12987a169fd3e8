"""docs/reference.md says what the code says, and docs/README.md leads to every page."""

from __future__ import annotations

from pathlib import Path

from tests.reference_page import PAGE, page

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_is_that_of_the_code() -> None:
    assert PAGE.read_text("utf-8") == page(), "python -m tests.reference_page makes it anew"


def test_the_index_leads_to_every_page() -> None:
    index = (DOCS / "README.md").read_text("utf-8")
    missing = [file.name for file in DOCS.glob("*.md") if file.name != "README.md" and f"({file.name}" not in index]
    assert not missing
