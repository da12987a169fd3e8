"""Where values come from: the environment over `config/relay.toml` over the defaults of the options."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from relay.errors import ConfigError
from relay.settings.options import Settings

QUOTES = ('""', "''", "``", "“”", "‘’")
_OPTIONS = {n: f for n, f in Settings.model_fields.items() if n not in ("config", "deployed", "sources")}


def config_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder `RELAY_CONFIG`, else `config/` here, else the copy that comes with the package.

    Raises:
        ConfigError: RELAY_CONFIG names no folder.
    """
    if given := environ.get("RELAY_CONFIG", "").strip():
        if not Path(given).is_dir():
            raise ConfigError(f"RELAY_CONFIG: '{given}' is not a folder")
        return Path(given)
    package = Path(__file__).parents[1]
    return next(
        f for f in (Path("config"), package / "_config", package.parent / "config") if (f / "providers").is_dir()
    )


def load(environ: Mapping[str, str]) -> Settings:
    """Return the effective configuration of this environment.

    Raises:
        ConfigError: with one line that names the variable, what was read (never a secret) and what is allowed.
    """
    folder = config_folder(environ)
    values = _file_values(folder / "relay.toml")
    sources = {name: "file" if name in values else "default" for name in _OPTIONS}
    for name, field in _OPTIONS.items():
        if field.alias and (value := from_environment(field.alias, environ)) is not None:
            values[name] = value
            sources[name] = "environment"
    try:
        deployed = bool(environ.get("DYNO"))
        return Settings.model_validate({**values, "config": folder, "deployed": deployed, "sources": sources})
    except ValidationError as error:
        _refuse(error, values, sources, folder / "relay.toml")


def from_environment(variable: str, environ: Mapping[str, str]) -> str | None:
    """Return the value of a variable, or of the file that `VARIABLE_FILE` names; an empty variable counts as unset.

    Raises:
        ConfigError: the file cannot be read, or the value is blank or in quotes: a value was meant, and is not there.
    """
    if value := environ.get(variable):
        return _bare(f"{variable}: the value", value)
    if file := environ.get(f"{variable}_FILE", "").strip():
        try:
            value = Path(file).read_text("utf-8-sig")  # Windows puts a mark before UTF-8
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{variable}_FILE: {error}") from None
        return _bare(f"{variable}_FILE: '{file}'", value)
    return None


def _bare(source: str, value: str) -> str:
    """Return a value without the blanks and line ends around it, which files and files of variables add.

    Quotes around it are refused, not removed: a shell removes them, an env file of a container does not, and the value
    must be the same wherever it is set.
    """
    value = value.strip()
    if not value:
        raise ConfigError(f"{source} is empty")
    if len(value) > 1 and value[0] + value[-1] in QUOTES:
        raise ConfigError(f"{source} has quotes around it: leave them out")
    return value


def toml_of(file: Path) -> dict[str, Any]:
    """Return what a TOML file holds.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except RecursionError:
        raise ConfigError(f"{file}: is nested too deeply") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from None


def _file_values(file: Path) -> dict[str, Any]:
    """Return what the file sets. As in the environment, an empty text counts as unset."""
    if not file.exists():
        return {}
    values = toml_of(file)
    for name in values:
        if name not in _OPTIONS:
            raise ConfigError(f"{file}: '{name}' is not an option")
    return {name: value for name, value in values.items() if value != ""}


# Where pydantic's own words are about pydantic or Python.
_PLAIN = {
    "too_short": "must name at least one",
    "tuple_type": "must be a list, or a text with commas between",
}


def _refuse(error: ValidationError, values: Mapping[str, Any], sources: Mapping[str, str], file: Path) -> NoReturn:
    first = error.errors()[0]
    why = _PLAIN.get(first["type"], first["msg"].removeprefix("Value error, "))
    if not first["loc"]:
        raise ConfigError(why)
    name = next((n for n, f in Settings.model_fields.items() if first["loc"][0] in (n, f.alias)), str(first["loc"][0]))
    field = Settings.model_fields[name]
    label = field.alias if sources.get(name) == "environment" else f"{file}: {name}"
    read = repr(values.get(name))
    secret = field.repr is False or re.search(r"://[^/]*@", read)
    raise ConfigError(f"{label}: {why}" if secret else f"{label}: {why}, not {read}")
