"""The tables of a provider file that say where in an answer something stands."""

from __future__ import annotations

from pydantic import field_validator

from relay.providers.paths import KeyNeeded, Path, Progress, Table, as_path


class ResultPaths(Table):
    """`[read.result]`: `key_needed` says which links open only with the provider's key: all of them, or those."""

    url: Path = Path(expressions=())
    thumbnail_url: Path = Path(expressions=())
    preview_url: Path = Path(expressions=())
    width: Path = Path(expressions=())
    height: Path = Path(expressions=())
    enhanced_prompt: Path = Path(expressions=())
    text: Path = Path(expressions=())
    ref: Path = Path(expressions=())
    key_needed: KeyNeeded = False

    _paths = field_validator("*", mode="before")(as_path)


class ErrorPaths(Table):
    """`[read.error]`"""

    code: Path = Path(expressions=("error.code", "code"))
    message: Path = Path(expressions=("error.message", "error", "message"))

    _paths = field_validator("*", mode="before")(as_path)


class Envelope(Table):
    """`[read.envelope]`: under which members the answer proper may stand, and what its status is called there.

    All other paths are tried in each of these places, too, and one of them may stand inside the other.
    """

    members: tuple[str, ...] = ()
    status: Path = Path(expressions=())

    _paths = field_validator("status", mode="before")(as_path)


class Read(Table):
    """`[read]`: where in an answer things are."""

    status: Path
    progress: Progress = Path(expressions=())
    wait: Path = Path(expressions=())
    model: Path = Path(expressions=())
    keep: Path = Path(expressions=())
    envelope: Envelope = Envelope()
    result: ResultPaths = ResultPaths()
    error: ErrorPaths = ErrorPaths()

    _paths = field_validator("status", "progress", "wait", "model", "keep", mode="before")(as_path)
