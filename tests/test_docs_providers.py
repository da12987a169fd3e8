"""docs/providers.md says what the provider files say."""

from pathlib import Path

import pytest

from relay.providers.overview import head_comment
from tests.providers_page import PAGE, ROOT, page


def test_the_page_is_that_of_the_files() -> None:
    assert PAGE.read_text("utf-8") == page(), "python -m tests.providers_page makes it anew"


@pytest.mark.parametrize("file", sorted((ROOT / "config/providers").glob("*.toml")), ids=lambda file: file.stem)
def test_a_file_begins_with_what_it_watches(file: Path) -> None:
    assert len(head_comment(file)) > 60
