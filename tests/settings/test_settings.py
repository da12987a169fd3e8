"""Configuration: documented to the letter, environment over file over default, and mistakes told in one line."""

import base64
import re
import tomllib
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from relay.errors import ConfigError
from relay.model.cadence import Cadence
from relay.settings.options import Settings
from relay.settings.sources import load
from relay.settings.types import duration, in_words, is_duration, is_size, size, size_in_words

ROOT = Path(__file__).parents[2]
DOCUMENTED = (ROOT / "config/relay.toml").read_text("utf-8")
LINES = re.findall(r"^# ([a-z_]+ = .*)$", DOCUMENTED, re.MULTILINE)
OPTIONS = {n: f for n, f in Settings.model_fields.items() if n not in ("config", "deployed", "sources")}
SIGNING_SECRET = "whsec_" + base64.b64encode(b"hunter2-hunter2-hunter2-hunter2-").decode()
HIDDEN = ("hunter2", SIGNING_SECRET.removeprefix("whsec_")[:20])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty configuration folder."""
    return tmp_path


def configured(folder: Path, text: str = "", /, **environ: str) -> Settings:
    """What `config/relay.toml` with this text and these variables come to."""
    (folder / "relay.toml").write_text(text, "utf-8")
    return load({"RELAY_CONFIG": str(folder), **environ})


def refusal(folder: Path, text: str = "", /, **environ: str) -> str:
    """The one line with which a configuration is refused."""
    with pytest.raises(ConfigError) as caught:
        configured(folder, text, **environ)
    line = str(caught.value)
    assert line
    assert len(line.splitlines()) == 1
    assert not any(secret in line for secret in HIDDEN)
    assert caught.value.__cause__ is None
    return line


# ------------------------------------------------------------------------------------------- the documented options


def test_every_option_is_documented_once_with_its_variable() -> None:
    documented = {}
    for line in LINES:
        (name,) = tomllib.loads(line)
        variable = re.search(r"  # ([A-Z_]+)", line)
        assert variable, line
        assert name not in documented
        documented[name] = variable[1]
    assert documented == {name: option.alias for name, option in OPTIONS.items()}


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split(" = ")[0])
def test_the_documented_default_is_the_default(line: str, folder: Path) -> None:
    (name,) = tomllib.loads(line)
    default, documented = configured(folder), configured(folder, line)
    if name == "sandbox":
        assert default.sandbox is None
        assert documented.sandbox_on == default.sandbox_on
    else:
        assert getattr(documented, name) == getattr(default, name)


def test_all_documented_lines_together_are_the_defaults(folder: Path) -> None:
    default, documented = configured(folder), configured(folder, "\n".join(LINES))
    assert documented.model_dump(exclude={"sandbox", "sources"}) == default.model_dump(exclude={"sandbox", "sources"})


def test_the_file_of_the_repository_sets_nothing() -> None:
    assert tomllib.loads(DOCUMENTED) == {}


# ------------------------------------------------------------------------------------------------------- precedence


def test_environment_over_file_over_default(folder: Path) -> None:
    settings = configured(folder)
    assert (settings.port, settings.sources["port"]) == (8000, "default")
    settings = configured(folder, "port = 1")
    assert (settings.port, settings.sources["port"]) == (1, "file")
    settings = configured(folder, "port = 1", PORT="2")
    assert (settings.port, settings.sources["port"]) == (2, "environment")


def test_sources_name_every_option(folder: Path) -> None:
    sources = configured(folder, 'host = "::1"\nlog_level = ""', LOG_FORMAT="json", PORT="").sources
    assert set(sources) == set(OPTIONS)
    assert {name for name, source in sources.items() if source != "default"} == {"host", "log_format"}


SAMPLES: dict[str, tuple[str, Any]] = {
    "PORT": ("80", 80),
    "RELAY_HOST": ("::1", "::1"),
    "RELAY_BASE_URL": ("https://relay.example/", "https://relay.example/"),
    "DATABASE_URL": ("postgres://relay@db/relay", "postgres://relay@db/relay"),
    "RELAY_DATABASE_POOL": ("9", 9),
    "RELAY_SECRET_KEY": ("new-new-new-new-new, old-old-old-old-old", ("new-new-new-new-new", "old-old-old-old-old")),
    "RELAY_API_KEY": ("rly_12345", "rly_12345"),
    "RELAY_SIGNING_SECRET": (SIGNING_SECRET, SIGNING_SECRET),
    "RELAY_PROVIDER": ("other", "other"),
    "RELAY_PROVIDERS": ("kling, runway", ("kling", "runway")),
    "RELAY_INLINE_PROVIDERS": ("1", True),
    "RELAY_POLL_INTERVAL": ("0.5-2", Cadence(first=0.5, steady=2, growth=1.5, floor=0.5, learn=False)),
    "RELAY_RETRY_SCHEDULE": ("0s, 5, 1.5m,2h,1d", (0, 5, 90, 7200, 86400)),
    "RELAY_EXPIRES_IN": ("90", 90),
    "RELAY_MAX_EXPIRES_IN": ("7d", 604_800),
    "RELAY_BLOCKED_NETWORKS": ("64:ff9b:1::/48", (ip_network("64:ff9b:1::/48"),)),
    "RELAY_ALLOWED_NETWORKS": ("10.0.0.0/8, fd00::/8", (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))),
    "SLACK_BOT_TOKEN": ("xoxb-1", "xoxb-1"),
    "SLACK_API_URL": ("http://127.0.0.1:1/api/", "http://127.0.0.1:1/api/"),
    "SLACK_SIGNING_SECRET": ("8f742231b10e8888", "8f742231b10e8888"),
    "RELAY_SLACK_TEAMS": ("T01=default, T01/U02=shop", ("T01=default", "T01/U02=shop")),
    "RELAY_SLACK_CHANNELS": (
        "shop=#renders, #orders, crm=C0123, *=#all",
        ("shop=#renders", "shop=#orders", "crm=C0123", "*=#all"),
    ),
    "SLACK_HOOK_HOSTS": ("a.example, b.example", ("a.example", "b.example")),
    "RELAY_SANDBOX": ("false", False),
    "RELAY_ADMIN_PASSWORD": ("a-long-password", "a-long-password"),
    "RELAY_ALERTS": ("#ops, https://ops.example/hook", ("#ops", "https://ops.example/hook")),
    "RELAY_METRICS_PORT": ("9464", 9464),
    "RELAY_METRICS_TOKEN": ("a-metrics-token", "a-metrics-token"),
    "RELAY_EPHEMERAL": ("1", True),
    "RELAY_EGRESS_PROXY": ("http://proxy.example:4750", "http://proxy.example:4750"),
    "RELAY_RATE_LIMIT": ("20", 20),
    "RELAY_MAX_WATCHES": ("10", 10),
    "RELAY_MAX_TARGETS": ("10", 10),
    "RELAY_TRUSTED_HOPS": ("2", 2),
    "RELAY_SUBMIT_APPS": ("shop, crm", ("shop", "crm")),
    "RELAY_MAX_SUBMIT": ("8 MiB", 8_388_608),
    "RELAY_IDEMPOTENCY_TTL": ("2h", 7200),
    "RELAY_CORS_ORIGINS": ("https://a.example, https://b.example", ("https://a.example", "https://b.example")),
    "RELAY_RETENTION": ("7d", 604800),
    "RELAY_GRACE": ("5s", 5),
    "RELAY_KEEP_ALIVE": ("2m", 120.0),
    "LOG_LEVEL": ("debug", "debug"),
    "LOG_FORMAT": ("json", "json"),
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("http://127.0.0.1:4318", "http://127.0.0.1:4318"),
    "SENTRY_DSN": ("https://key@sentry.example/1", "https://key@sentry.example/1"),
}
PAIR = {"RELAY_API_KEY": "rly_hunter2", "RELAY_SIGNING_SECRET": SIGNING_SECRET}


def names_of(variable: str) -> list[str]:
    return [name for name, option in OPTIONS.items() if option.alias == variable]


@pytest.mark.parametrize("variable", [option.alias for option in OPTIONS.values()])
def test_every_option_can_be_set_in_every_way(variable: str, folder: Path) -> None:
    if variable not in SAMPLES:
        pytest.fail(f"add a sample of {variable}")
    text, value = SAMPLES[variable]
    (name,) = names_of(variable)
    pair = PAIR if variable in PAIR else {}
    other = {key: value for key, value in pair.items() if key != variable}

    assert getattr(configured(folder, **other, **{variable: text}), name) == value
    assert getattr(configured(folder, f'{name} = "{text}"', **other), name) == value
    (folder / "secret").write_text(f"{text}\n")
    by_file = {**other, f"{variable}_FILE": str(folder / "secret")}
    assert getattr(configured(folder, **by_file), name) == value
    assert configured(folder, **by_file).sources[name] == "environment"


def test_a_variable_wins_over_its_file_and_an_empty_one_is_unset(folder: Path) -> None:
    (folder / "secret").write_text("from-the-file-of-the-variable\n")
    by_file = {"SLACK_BOT_TOKEN_FILE": str(folder / "secret")}
    toml = 'slack_bot_token = "from-relay.toml"'
    assert configured(folder, toml, **by_file).slack_bot_token == "from-the-file-of-the-variable"
    assert configured(folder, toml, **by_file, SLACK_BOT_TOKEN="direct").slack_bot_token == "direct"
    assert configured(folder, toml, SLACK_BOT_TOKEN="").slack_bot_token == "from-relay.toml"


@pytest.mark.parametrize(
    "variable", ["RELAY_ADMIN_PASSWORD", "SLACK_BOT_TOKEN", "RELAY_SECRET_KEY", "LOG_LEVEL", "PORT"]
)
@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", "\ufeff{}\r\n\r\n", " {}\t"])
def test_blanks_and_line_ends_around_a_value_are_no_part_of_it(variable: str, around: str, folder: Path) -> None:
    """An env file with Windows line ends, `echo secret > file`, an editor's mark at the beginning of a file."""
    text, value = SAMPLES[variable]
    (name,) = names_of(variable)
    file = folder / "value"
    file.write_bytes(around.format(text).encode())
    assert getattr(configured(folder, **{f"{variable}_FILE": f"{file}\r"}), name) == value
    assert getattr(configured(folder, **{variable: around.format(text).lstrip("\ufeff")}), name) == value


@pytest.mark.parametrize("quotes", ['""', "''", "``", "“”", "‘’"])
@pytest.mark.parametrize("variable", ["RELAY_API_KEY", "DATABASE_URL", "RELAY_SECRET_KEY", "PORT", "RELAY_PROVIDER"])
def test_quotes_around_a_value_are_refused(variable: str, quotes: str, folder: Path) -> None:
    """A shell takes them away, `docker --env-file` does not."""
    value = f"{quotes[0]}hunter2-hunter2-hunter2{quotes[1]}"
    assert refusal(folder, **{variable: value}) == f"{variable}: the value has quotes around it: leave them out"
    file = folder / "value"
    file.write_text(f"{value}\n", "utf-8")
    line = refusal(folder, **{f"{variable}_FILE": str(file)})
    assert line == f"{variable}_FILE: '{file}' has quotes around it: leave them out"


@pytest.mark.parametrize("quoted", ['it is "so" here', 'rly_"12345', '"rly_12345', "rly_12345'"])
def test_a_quote_within_a_value_is_part_of_it(quoted: str, folder: Path) -> None:
    assert configured(folder, RELAY_ADMIN_PASSWORD=quoted).admin_password == quoted


@pytest.mark.parametrize("blank", [" ", "\r", "\n\n"])
def test_a_blank_value_is_a_mistake(blank: str, folder: Path) -> None:
    """A secret was meant there: without RELAY_ADMIN_PASSWORD more is open than with it."""
    assert refusal(folder, RELAY_ADMIN_PASSWORD=blank) == "RELAY_ADMIN_PASSWORD: the value is empty"


def test_a_list_may_be_a_list_in_the_file(folder: Path) -> None:
    settings = configured(
        folder,
        'retry_schedule = [0, "5s", 60]\nallowed_networks = ["10.0.0.0/8"]\n'
        'secret_key = ["a-new-key-of-some-length", "an-old-key-of-some-length"]\npoll_interval = 2.5\nport = 1',
    )
    assert settings.retry_schedule == (0, 5, 60)
    assert settings.allowed_networks == (ip_network("10.0.0.0/8"),)
    assert settings.secret_key == ("a-new-key-of-some-length", "an-old-key-of-some-length")
    assert settings.poll_interval == Cadence(first=2.5, steady=2.5, growth=1.5, floor=2.5, learn=False)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), (" 5 m ", 300), ("1.5h", 5400), ("30d", 2_592_000), ("0s", 0), (7, 7), (1.5, 1.5)],
)
def test_durations(text: object, seconds: float) -> None:
    assert duration(text) == seconds


# ------------------------------------------------------------------------------------------------- what follows


@pytest.mark.parametrize(
    ("environ", "embedded", "sandbox_on"),
    [
        ({}, True, True),
        ({"DYNO": "web.1"}, True, False),
        ({"DYNO": ""}, True, True),
        ({"DATABASE_URL": "postgres://db/relay"}, False, False),
        ({"DATABASE_URL": "postgres://db/relay", "RELAY_SANDBOX": "1"}, False, True),
        ({"DYNO": "web.1", "RELAY_SANDBOX": "true"}, True, True),
        ({"RELAY_SANDBOX": "0"}, True, False),
    ],
)
def test_the_sandbox_is_off_in_production(
    environ: dict[str, str], embedded: bool, sandbox_on: bool, folder: Path
) -> None:
    settings = configured(folder, **environ)
    assert (settings.embedded, settings.sandbox_on) == (embedded, sandbox_on)


@pytest.mark.parametrize(
    ("text", "environ", "bind"),
    [
        ("", {}, "127.0.0.1"),
        ("port = 80", {}, "127.0.0.1"),
        ("", {"PORT": "80"}, "0.0.0.0"),
        ("", {"PORT": "80", "RELAY_HOST": "::1"}, "::1"),
        ('host = "10.0.0.1"', {"PORT": "80"}, "10.0.0.1"),
    ],
)
def test_relay_listens_to_everybody_only_where_a_platform_sets_the_port(
    text: str, environ: dict[str, str], bind: str, folder: Path
) -> None:
    assert configured(folder, text, **environ).bind == bind


def test_public_url(folder: Path) -> None:
    assert configured(folder, PORT="81").public_url == "http://127.0.0.1:81"
    assert configured(folder, RELAY_BASE_URL="https://relay.example/sub/").public_url == "https://relay.example/sub"


def test_the_folder_of_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load({"RELAY_CONFIG": str(tmp_path)}).config == tmp_path
    monkeypatch.chdir(tmp_path)
    assert (load({}).config / "providers/unified-video.toml").is_file()
    (tmp_path / "config/providers").mkdir(parents=True)
    assert load({}).config == Path("config")
    with pytest.raises(ConfigError, match="RELAY_CONFIG: 'nowhere' is not a folder"):
        load({"RELAY_CONFIG": "nowhere"})


def test_no_secret_shows_in_the_repr(folder: Path) -> None:
    settings = configured(
        folder,
        **PAIR,
        RELAY_SECRET_KEY="hunter2-hunter2-hunter2",
        DATABASE_URL="postgres://relay:hunter2@db/relay",
        SLACK_BOT_TOKEN="xoxb-hunter2",
    )
    assert not any(secret in repr(settings) + str(settings) for secret in HIDDEN)


# --------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("PORT", "http", "integer"),
        ("PORT", "65536", "less than or equal to 65535"),
        ("PORT", "-1", "greater than or equal to 0"),
        ("RELAY_BASE_URL", "relay.example", "an address with http:// or https://"),
        ("RELAY_BASE_URL", "https://relay.example/?a=b", "an address with http:// or https://"),
        ("RELAY_DATABASE_POOL", "0", "greater than or equal to 1"),
        ("RELAY_POLL_INTERVAL", "often", "such as 5 or 0.5-2"),
        ("RELAY_POLL_INTERVAL", "2-0.5", "such as 5 or 0.5-2"),
        ("RELAY_POLL_INTERVAL", "0.01", "between 0.05 and 3600"),
        ("RELAY_POLL_INTERVAL", "3601", "between 0.05 and 3600"),
        ("RELAY_RETRY_SCHEDULE", "0s,soon", "90s, 5m, 2h, 30d"),
        ("RELAY_RETRY_SCHEDULE", "0s,-5s", "90s, 5m, 2h, 30d"),
        ("RELAY_RETRY_SCHEDULE", ",", "must name at least one"),
        ("RELAY_RETRY_SCHEDULE", "0,999999999999d", "less than or equal to"),
        ("RELAY_EXPIRES_IN", "a day", "90s, 5m, 2h, 30d"),
        ("RELAY_EXPIRES_IN", "0", "greater than or equal to 1"),
        ("RELAY_EXPIRES_IN", "1e3", "90s, 5m, 2h, 30d"),
        ("RELAY_MAX_EXPIRES_IN", "9" * 400, "less than or equal to"),
        ("RELAY_ALLOWED_NETWORKS", "10.0.0.0/8,everywhere", "CIDR notation"),
        ("RELAY_ALLOWED_NETWORKS", "10.0.0.1/8", "CIDR notation"),
        ("RELAY_BLOCKED_NETWORKS", "nowhere", "CIDR notation"),
        ("SLACK_API_URL", "slack.com", "an address with http:// or https://"),
        ("RELAY_CORS_ORIGINS", "foo", "such as https://app.example"),
        ("RELAY_CORS_ORIGINS", "https://app.example/", "such as https://app.example"),
        ("RELAY_SLACK_CHANNELS", "#renders", "like shop=#renders,#orders"),
        ("RELAY_SLACK_CHANNELS", "shop=", "like shop=#renders,#orders"),
        ("SLACK_HOOK_HOSTS", "https://hooks.example/services", "such as hooks.slack.com"),
        ("RELAY_SANDBOX", "maybe", "boolean"),
        ("RELAY_GRACE", "1h", "less than or equal to 300"),
        ("RELAY_GRACE", "-1", "90s, 5m, 2h, 30d"),
        ("LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("LOG_FORMAT", "xml", "'text' or 'json'"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(variable: str, value: str, allowed: str, folder: Path) -> None:
    line = refusal(folder, **{variable: value})
    assert line.startswith(f"{variable}: ")
    assert allowed in line
    assert repr(value) in line
    (name,) = names_of(variable)
    line = refusal(folder, f'{name} = "{value}"')
    assert line.startswith(f"{folder / 'relay.toml'}: {name}: ")
    assert allowed in line


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DATABASE_URL", "mysql://relay:hunter2@db/relay"),
        ("DATABASE_URL", "hunter2"),
        ("RELAY_BASE_URL", "https://u:hunter2@relay.example"),
        ("RELAY_SECRET_KEY", "hunter2"),
        ("RELAY_SECRET_KEY", ","),
        ("SLACK_BOT_TOKEN", "xoxb-hunter2ü"),
        ("RELAY_SECRET_KEY", "hunter2-hunter2-hunter2,hunter2"),
        ("RELAY_API_KEY", "hunter2"),
        ("RELAY_SIGNING_SECRET", "hunter2"),
        ("RELAY_SIGNING_SECRET", "whsec_hunter2hunter2hunter2hunter2hunter2hunter2!"),
        ("RELAY_SIGNING_SECRET", "whsec_hunter2hunter2hunter2é"),
    ],
)
def test_a_wrong_secret_is_named_but_never_shown(variable: str, value: str, folder: Path) -> None:
    assert refusal(folder, **{variable: value}).startswith(variable)
    (name,) = names_of(variable)
    line = refusal(folder, f'{name} = "{value}"')
    assert name in line or variable in line


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("DATABASE_URL", "sqlite://hunter2/relay.db", "sqlite:///relay.db"),
        ("DATABASE_URL", "sqlite://hunter2@/relay.db", "sqlite:///relay.db"),
        ("DATABASE_URL", "sqlite://", "must name a file"),
        ("DATABASE_URL", "sqlite:///", "must name a file"),
        ("DATABASE_URL", "sqlite:///:memory:", "must name a file"),
        ("DATABASE_URL", "sqlite:///file::memory:?uri=true", "must name a file"),
        ("DATABASE_URL", "sqlite:///file:x?mode=memory&uri=true", "must name a file"),
        ("RELAY_EGRESS_PROXY", "http://[", "http://proxy:4750"),
        ("RELAY_EGRESS_PROXY", "http://", "http://proxy:4750"),
        ("RELAY_EGRESS_PROXY", "http://:4750", "http://proxy:4750"),
        ("RELAY_EGRESS_PROXY", "http://user:hunter2@proxy:port", "http://proxy:4750"),
        ("RELAY_EGRESS_PROXY", "http://user:hunter2@proxy:65536", "http://proxy:4750"),
        ("RELAY_EGRESS_PROXY", "http://proxy:4750/path", "http://proxy:4750"),
        ("RELAY_EGRESS_PROXY", "http://pro xy:4750", "http://proxy:4750"),
        ("RELAY_EGRESS_PROXY", "https://user:hunter2@proxy:4750", "http://proxy:4750"),
        ("RELAY_EGRESS_PROXY", "proxy:4750", "http://proxy:4750"),
    ],
)
def test_a_wrong_secret_is_refused_with_what_is_allowed(variable: str, value: str, allowed: str, folder: Path) -> None:
    assert allowed in refusal(folder, **{variable: value})


@pytest.mark.parametrize(
    "value", ["http://proxy", "http://proxy:4750/", "http://user:p%40ss@proxy:4750", "http://[::1]:1"]
)
def test_an_egress_proxy_is_taken(value: str, folder: Path) -> None:
    assert configured(folder, RELAY_EGRESS_PROXY=value).egress_proxy == value


@pytest.mark.parametrize("name", ["database_url", "secret_key", "api_key", "signing_secret", "slack_bot_token"])
@pytest.mark.parametrize("value", ['{ a = "hunter2" }', '[["hunter2"]]', "1979-05-27", "7", "true"])
def test_a_secret_of_the_wrong_type_is_never_shown(name: str, value: str, folder: Path) -> None:
    assert name in refusal(folder, f"{name} = {value}")


@pytest.mark.parametrize("name", ["port", "retry_schedule", "allowed_networks", "log_level", "poll_interval", "grace"])
@pytest.mark.parametrize("value", ['{ a = "b" }', '[["b"]]', "1979-05-27", "inf", "nan", "'''\nx\n'''"])
def test_a_value_of_the_wrong_type(name: str, value: str, folder: Path) -> None:
    assert refusal(folder, f"{name} = {value}").startswith(f"{folder / 'relay.toml'}: {name}: ")


@pytest.mark.parametrize(
    "line", ["port = true", "retry_schedule = [true]", "poll_interval = true", "grace = true", "rate_limit = true"]
)
def test_true_is_no_number(line: str, folder: Path) -> None:
    assert "must be a number" in refusal(folder, line)


@pytest.mark.parametrize("present", PAIR)
def test_half_an_app_is_none(present: str, folder: Path) -> None:
    assert configured(folder, **{present: PAIR[present]}).half_an_app
    assert not configured(folder, **PAIR).half_an_app
    assert not configured(folder).half_an_app


def test_a_duration_is_written_as_the_file_writes_it(folder: Path) -> None:
    settings = configured(folder)
    durations = {name: getattr(settings, name) for name, field in OPTIONS.items() if is_duration(field)}
    documented = dict(re.findall(r'^# (\w+) = "(\d+[smhd])"', DOCUMENTED, re.MULTILINE))
    assert {name: in_words(seconds) for name, seconds in durations.items()} == documented
    assert ",".join(map(in_words, settings.retry_schedule)) in DOCUMENTED
    sizes = {name: getattr(settings, name) for name, field in OPTIONS.items() if is_size(field)}
    assert {name: size_in_words(value) for name, value in sizes.items()} == {"max_submit": "32 MiB"}
    assert [size_in_words(value) for value in (1, 1024, 4095, 500_000, 8 << 20)] == [
        "1",
        "1 KiB",
        "4095",
        "500 kB",
        "8 MiB",
    ]
    assert [size(size_in_words(value)) for value in (1, 4095, 500_000, 10**6)] == [1, 4095, 500_000, 10**6]
    assert [in_words(seconds) for seconds in (0, 0.5, 61, 90 * 60, 86400, 2 * 86400)] == [
        *("0s", "0.5s", "61s"),
        *("90m", "24h", "2d"),
    ]


def test_the_deadline_fits_its_bound(folder: Path) -> None:
    line = refusal(folder, RELAY_EXPIRES_IN="2h", RELAY_MAX_EXPIRES_IN="1h")
    assert line == "RELAY_EXPIRES_IN must not be longer than RELAY_MAX_EXPIRES_IN: 7200s are longer than 3600s"


def test_a_list_that_is_none_is_told_in_words(folder: Path) -> None:
    assert ": allowed_networks: must be a list, or a text with commas" in refusal(folder, "allowed_networks = 5")


@pytest.mark.parametrize("name", ["ports", "config", "deployed", "sources", "PORT", "server"])
def test_an_unknown_key_in_the_file(name: str, folder: Path) -> None:
    assert refusal(folder, f'{name} = "hunter2"') == f"{folder / 'relay.toml'}: '{name}' is not an option"


def test_an_unknown_table_in_the_file(folder: Path) -> None:
    assert "'server' is not an option" in refusal(folder, '[server]\nkey = "hunter2"')


@pytest.mark.parametrize(
    "text",
    ["port = ", 'api_key = "hunter2', "api_key = hunter2", "port = 1\nport = 2", "\0", "a = " + "[" * 5000],
    ids=lambda text: repr(text[:20]),
)
def test_a_file_that_is_no_toml(text: str, folder: Path) -> None:
    assert refusal(folder, text).startswith(f"{folder / 'relay.toml'}: ")


def test_a_file_that_is_no_text(folder: Path) -> None:
    (folder / "relay.toml").write_bytes(b'api_key = "hunter2\xff"')
    with pytest.raises(ConfigError, match=r"relay\.toml: ") as caught:
        load({"RELAY_CONFIG": str(folder)})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"hunter2\xff", b" \n"])
def test_a_file_of_a_variable_that_cannot_be_read(content: bytes | None, folder: Path) -> None:
    if content:
        (folder / "secret").write_bytes(content)
    line = refusal(folder, SLACK_BOT_TOKEN_FILE=str(folder / "secret"))
    assert line.startswith("SLACK_BOT_TOKEN_FILE: ")


def test_a_platform_puts_one_proxy_in_front_unless_told_otherwise(folder: Path) -> None:
    found = [
        load({"RELAY_CONFIG": str(folder), **more}).hops
        for more in ({}, {"DYNO": "web.1"}, {"RELAY_TRUSTED_HOPS": "2"}, {"DYNO": "web.1", "RELAY_TRUSTED_HOPS": "0"})
    ]
    assert found == [0, 1, 2, 0]
