"""A wrong address of an upstream: refused at the start where it can be seen."""

from pathlib import Path

import pytest

from relay.errors import ConfigError
from relay.providers.definition import load_definition

FILE = Path(__file__).parents[2] / "config/providers/unified-video.toml"


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
