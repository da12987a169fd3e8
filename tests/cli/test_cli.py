"""The command line as its users meet it: real processes in an empty folder, judged by exit code and output."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from relay import __version__
from relay.cli import cli
from relay.security import signing
from relay.simulators.upstream import BEHAVIOURS
from relay.store import Database, migrate, watches
from relay.web.server import listen, serving
from tests.support import rows
from tests.support.commands import CONFIG, Shell
from tests.support.parties import Answer, Receiver, Upstream, done, says

pytestmark = pytest.mark.anyio

SECRETS = {
    "RELAY_API_KEY": "hidden-api-key",
    "RELAY_SIGNING_SECRET": "whsec_" + base64.b64encode(b"hidden signing secret of 32 bytes").decode(),
    "RELAY_SECRET_KEY": "hidden-secret-key-1,hidden-secret-key-2",
    "SLACK_BOT_TOKEN": "xoxb-hidden",
    "UNIFIED_VIDEO_API_KEY": "hidden-upstream-key",
}


# Help and usage


def commands(of: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """Every command below `of`, by its words."""
    if isinstance(of, TyperGroup):
        for name, command in of.commands.items():
            yield from commands(command, *path, name)
    else:
        yield path


EVERY = list(commands(get_command(cli)))


def test_every_command_says_what_it_does_with_an_example_of_itself() -> None:
    runner = CliRunner()
    for words in EVERY:
        result = runner.invoke(cli, [*words, "--help"])
        assert result.exit_code == 0
        assert result.output == runner.invoke(cli, [*words, "-h"]).output
        description, _, example = " ".join(result.output.partition("Options:")[0].split()).partition(" Example: ")
        assert len(description) > 40, words
        assert f"relay {' '.join(words)}" in example, words


@pytest.mark.parametrize("group", sorted({words[0] for words in EVERY if len(words) > 1}))
def test_every_group_shows_one_of_its_commands(group: str) -> None:
    assert re.search(rf"Example: .*relay {group} \w+", CliRunner().invoke(cli, [group, "--help"]).output)


def test_the_contracts_commands_are_there() -> None:
    contract = {"demo", "dev", "serve", "web", "worker", "migrate", "watch", "listen", "sandbox", "check", "config"}
    contract |= {"watches", "deliveries", "retry"}
    assert {words[0] for words in EVERY} >= contract | {"apps", "providers", "secrets", "slack"}
    assert {words[1] for words in EVERY if words[0] == "apps"} == {
        "create",
        "list",
        "rotate-key",
        "rotate-secret",
        "disable",
    }
    assert {words[1] for words in EVERY if words[0] == "providers"} == {"list", "show", "check", "read", "try", "new"}
    assert {words[1] for words in EVERY if words[0] == "slack"} == {"manifest", "check"}


def test_without_words_it_shows_its_commands() -> None:
    shown = CliRunner().invoke(cli, []).output
    for name in {words[0] for words in EVERY}:
        assert re.search(rf"^  {name} ", shown, re.MULTILINE), name


@pytest.mark.parametrize(
    "words",
    [
        "sreve",
        "serve --prot 1",
        "watch",
        "watch task",
        "watch task --webhook",
        "listen --port 70000",
        "listen --port x",
        "listen --secret hunter2",
        "sandbox --port -1",
        "apps",
        "apps create",
        "apps create a b",
        "apps rotate-secret shop --overlap soon",
        "apps rotate-secret shop --overlap 366d",
        "providers check",
        "providers check missing.toml",
        "providers try unified-video",
    ],
)
def test_wrong_usage_is_2_and_says_what_is_wrong(words: str) -> None:
    result = CliRunner().invoke(cli, words.split())
    assert result.exit_code == 2
    assert re.search(r"Error: \S|Usage: ", result.output)
    assert "hunter2" not in result.output


def test_a_task_without_an_id_is_not_tried() -> None:
    assert CliRunner().invoke(cli, ["providers", "try", "unified-video", " "]).exit_code == 2


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "a\nb", "a\0b", "\udcff"])
def test_a_name_for_an_app_can_be_printed(name: str) -> None:
    assert CliRunner().invoke(cli, ["apps", "create", name]).exit_code == 2


async def test_wrong_usage_of_the_real_thing_is_2(shell: Shell) -> None:
    wrong, version = await asyncio.gather(shell.run("watch", "task"), shell.run("--version"))
    assert (wrong.code, wrong.out) == (2, "")
    assert "--webhook URL or --slack CHANNEL" in wrong.err
    assert (version.code, version.out, version.err) == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("into", "environ", "code", "said"),
    [
        ("apps list --json >&-", {}, 0, ""),
        ("config >&- 2>&-", {}, 0, ""),
        ("apps list >/dev/full", {}, 1, "relay: cannot write: No space left on device\n"),
        ("apps list --json >/dev/full", {}, 1, "relay: cannot write: No space left on device\n"),
        ("config | cat", {"PYTHONIOENCODING": "ascii", "RELAY_PROVIDER": "café"}, 0, ""),
    ],
)
async def test_what_standard_output_cannot_take_is_no_traceback(
    shell: Shell, into: str, environ: dict[str, str], code: int, said: str
) -> None:
    process = await asyncio.create_subprocess_shell(
        f"set -o pipefail; exec {sys.executable} -m relay {into}",
        executable="/bin/bash",
        env=shell.environ | environ,
        cwd=shell.folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, error = await process.communicate()
    assert (process.returncode, error.decode()) == (code, said)


# A user's mistakes


async def test_a_mistake_is_one_line_that_says_what_to_do(shell: Shell) -> None:
    with contextlib.closing(listen("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        (shell.folder / "broken.toml").write_text("[request]\npath = 1\n" + "# longer than SQLite's header\n" * 50)
        (shell.folder / "list.json").write_text("[]")
        mistakes: list[tuple[Sequence[str], dict[str, str], str]] = [
            (("serve",), {"DYNO": "web.1", "RELAY_SECRET_KEY": "x" * 16}, "DATABASE_URL"),
            (("serve",), {"PORT": port, "RELAY_HOST": "127.0.0.1"}, f"PORT: cannot listen on .*:{port}: .*another"),
            (("serve",), {"RELAY_HOST": "no host"}, "RELAY_HOST: 'no host' is no address"),
            (("listen", "--port", port), {}, f"--port: cannot listen on .*:{port}: .*; choose another"),
            (("serve",), {"RELAY_CONFIG": "nowhere"}, "'nowhere' is not a folder"),
            (("serve",), {"RELAY_PROVIDER": "nope"}, "'nope' is not declared.*there is .*unified-video"),
            (("serve",), {"RELAY_PROVIDERS": "runwya"}, "RELAY_PROVIDERS: 'runwya' is not.*did you mean 'runway'"),
            (("providers", "try", "runway", "x"), {}, "'runway' needs an API key: set RUNWAY_API_KEY"),
            (("serve",), {"UNIFIED_VIDEO_API_KEY": "sk-hidden-ü"}, "UNIFIED_VIDEO_API_KEY: .* printable ASCII"),
            (("serve",), {"RELAY_POLL_INTERVAL": "often"}, "RELAY_POLL_INTERVAL.*'often'"),
            (("serve",), {"RELAY_API_KEY": "hidden-key"}, "RELAY_SIGNING_SECRET"),
            (("worker",), {"DATABASE_URL": "postgres://u:hidden@127.0.0.1:1/x"}, "RELAY_SECRET_KEY"),
            (
                ("worker",),
                {"DATABASE_URL": "postgres://u:hidden@127.0.0.1:1/x", "RELAY_SECRET_KEY": "hidden-key-of-the-vault"},
                "does not answer: .*Connection refused",
            ),
            (("serve",), {"DATABASE_URL": "sqlite:///broken.toml"}, "DATABASE_URL: 'broken.toml' is not a SQLite"),
            (("check",), {"DATABASE_URL": "sqlite:///broken.toml"}, "DATABASE_URL: 'broken.toml' is not a SQLite"),
            (("serve",), {"DATABASE_URL": "sqlite://host/x"}, "DATABASE_URL: names a host"),
            (("serve",), {"DATABASE_URL": "sqlite://"}, "DATABASE_URL: must name a file"),
            (("serve",), {"RELAY_EGRESS_PROXY": "http://["}, "RELAY_EGRESS_PROXY: must be like"),
            (("apps", "list"), {"DATABASE_URL": "mysql://u:hidden@h/x"}, "DATABASE_URL.*postgres://"),
            (("apps", "list"), {"DATABASE_URL": "sqlite:////no/such/folder/x.db"}, "is not there: create it"),
            (("watch", "x", "--webhook", "https://x"), {}, "RELAY_API_KEY is not set.*relay apps create"),
            (("providers", "check", "broken.toml"), {}, "broken.toml: request"),
            (("providers", "try", "nobody", "x"), {}, "'nobody'.*relay providers list"),
            (("providers", "try", "sandbox", "x"), {"RELAY_SANDBOX": "0"}, "switched off here: RELAY_SANDBOX=1"),
            (("providers", "try", "unified-video", "x"), {}, "UNIFIED_VIDEO_BASE_URL"),
        ]
        ran = await shell.run_each([(words, {"PORT": "0"} | environ) for words, environ, _ in mistakes])
    for (words, environ, expected), one in zip(mistakes, ran, strict=True):
        assert re.search(expected, one.complaint), (words, environ, one.complaint)
        assert "hidden" not in one.out + one.err
    real = await shell.run("serve", DYNO="web.1")
    assert "DATABASE_URL" in real.complaint


async def test_watch_says_what_is_wrong_with_its_surroundings(shell: Shell, receiver: Receiver) -> None:
    receiver.scripts["/v1/watches"] = Answer(b'["JSON, but not like relay"]', 404)
    receiver.scripts["/html/v1/watches"] = Answer(b"<html>", 502)
    cases: list[tuple[str, str, str]] = [
        ("http://127.0.0.1:9", "rly_x", "no answer from http://127.0.0.1:9.*RELAY_URL"),
        ("http://[", "rly_x", "RELAY_URL"),
        ("http://[::1", "rly_x", "RELAY_URL: 'http://\\[::1' is not a valid URL"),
        ("localhost:8000", "rly_x", "RELAY_URL"),
        (receiver.url, "rly_x", "does not answer like relay.*RELAY_URL"),
        (f"{receiver.url}/html", "rly_x", "does not answer like relay.*RELAY_URL"),
        ("http://127.0.0.1:9", "clé", "API key"),
    ]
    words = ("watch", "x", "--webhook", "https://x")
    ran = await shell.run_each([(words, {"RELAY_URL": url, "RELAY_API_KEY": key}) for url, key, _ in cases])
    for (url, key, expected), one in zip(cases, ran, strict=True):
        assert re.search(expected, one.complaint), (url, key)


async def test_the_environments_proxies_are_for_what_is_elsewhere(shell: Shell, receiver: Receiver) -> None:
    receiver.scripts["/v1/watches"] = Answer(b'["JSON, but not like relay"]', 404)
    nobody, unusable = "http://127.0.0.1:1", "socks9://u:hidden@127.0.0.1:1"
    here, port = receiver.url, httpx.URL(receiver.url).port
    cases = [
        ({"RELAY_URL": here, "HTTP_PROXY": nobody, "ALL_PROXY": unusable}, "does not answer like relay"),
        ({"RELAY_URL": f"http://localhost:{port}", "HTTP_PROXY": nobody}, "does not answer like relay"),
        ({"RELAY_URL": "http://relay.invalid", "HTTP_PROXY": here}, "does not answer like relay"),
        ({"RELAY_URL": "http://relay.invalid", "ALL_PROXY": unusable}, "ALL_PROXY: the proxy cannot be used"),
    ]
    words = ("watch", "x", "--webhook", "https://x")
    ran = await shell.run_each([(words, environ) for environ, _ in cases], RELAY_API_KEY="rly_x")
    for (environ, expected), one in zip(cases, ran, strict=True):
        assert expected in one.complaint, environ
        assert "hidden" not in one.err


async def test_watch_takes_its_key_from_a_file_and_rides_over_an_outage(shell: Shell, receiver: Receiver) -> None:
    """A router's page, a relay that restarts, and the end; and a refusal, which no waiting mends."""
    watch: dict[str, Any] = {"id": "wch_1", "state": "watching", "upstream_status": None, "progress": 0.5}
    over = {**watch, "state": "completed", "result": {"url": "https://cdn.example/v.mp4"}}
    answers = [Answer(b"<html>", 502), Answer(b'{"detail": "starting"}', 503)]
    answers = [Answer(json.dumps(watch).encode()), *answers, Answer(json.dumps(over).encode())]
    looks: list[str] = []

    async def api(request: Request) -> Response:
        if request.headers["authorization"] != "Bearer rly_of-the-file":
            return Response(b'{"detail": "who?"}', 401)
        if request.method == "POST":
            return Response(json.dumps(watch | {"id": (await request.json())["task_id"]}), 201)
        looks.append(request.path_params["id"])
        if looks[-1] == "gone":
            return Response(b'{"detail": "there is no watch"}', 404)
        answer = answers[len(looks) - 1]
        return Response(answer.body, answer.status)

    (shell.folder / "key").write_text("rly_of-the-file\n")
    listener = listen("127.0.0.1", 0)
    routes = [Route("/v1/watches", api, methods=["POST"]), Route("/v1/watches/{id}", api)]
    words = ("--webhook", "https://x", "--follow")
    environ = {"RELAY_URL": f"http://127.0.0.1:{listener.getsockname()[1]}", "RELAY_API_KEY_FILE": "key"}
    async with serving(Starlette(routes=routes), listener):
        ran, gone = await shell.run_many(["watch", "x", *words], ["watch", "gone", *words], **environ)
    assert (ran.code, ran.err) == (0, "")
    assert re.findall("Trying again|answers again|completed: .*", ran.out) == [
        "Trying again",
        "answers again",
        "completed: https://cdn.example/v.mp4",
    ]
    assert gone.complaint == "there is no watch"
    assert looks == ["x"] * 4 + ["gone"]


# Apps


async def test_an_app_is_made_once_and_its_secrets_are_shown_once(shell: Shell) -> None:
    made = (await shell.run("apps", "create", "shop", "--json")).json()
    assert set(made) == {"id", "name", "api_key", "signing_secret"}
    assert made["id"].startswith("app_")
    assert re.fullmatch(r"rly_[\w-]{43}", made["api_key"])
    assert len(signing.key_of(made["signing_secret"])) == 32
    odd = "a [/b] :smile: 'x' 店"
    again, other, table, as_json = await shell.run_many(
        ["apps", "create", "shop", "--json"],
        ["apps", "create", odd],
        ["apps", "list"],
        ["apps", "list", "--json"],
    )
    assert "an app named 'shop' exists already" in again.complaint
    assert (other.code, other.err) == (0, "")
    assert f"The app '{odd}' can call relay now" in other.out
    key, secret = re.findall(r"(?:rly|whsec)_\S+", other.out)
    assert (key[:4], len(signing.key_of(secret))) == ("rly_", 32)
    listed = as_json.json()
    assert [one["name"] for one in listed] == ["shop", odd]
    assert listed[0]["id"] == made["id"]
    assert all(one["id"] in table.out and one["name"] in table.out for one in listed)
    assert not any(word in table.out + json.dumps(listed) for word in ("rly_", "whsec_"))
    assert oct((shell.folder / "relay.key").stat().st_mode & 0o777) == "0o600"


async def test_a_key_that_is_exported_for_relay_watch_stops_the_processes_alone(shell: Shell) -> None:
    processes = [("serve",), ("web",), ("worker",)]
    others = [
        ("apps", "create", "shop"),
        ("apps", "list"),
        ("config",),
        ("check",),
        ("migrate",),
        ("providers", "list"),
    ]
    others.append(("apps", "rotate-key", "shop"))
    ran = await shell.run_many(*processes, *others, RELAY_API_KEY="rly_of-an-app-of-this-relay", PORT="0")
    for words, one in zip(processes, ran, strict=False):
        assert "RELAY_SIGNING_SECRET" in one.complaint, words
    for words, one in zip(others, ran[len(processes) :], strict=True):
        assert (one.code, one.err) == (0, ""), words


async def test_a_disabled_app_gets_no_key_that_cannot_work(shell: Shell) -> None:
    made, disabled, refused = await shell.run_many(
        ["apps", "create", "shop", "--json"], ["apps", "disable", "shop", "--json"], ["apps", "rotate-key", "shop"]
    )
    assert disabled.json() == {"id": made.json()["id"], "name": "shop", "disabled": True}
    assert "'shop' is disabled" in refused.complaint


async def test_disable_stops_the_watches_of_an_app(shell: Shell) -> None:
    url = f"sqlite:///{shell.folder / 'stop.db'}"
    made = (await shell.run("apps", "create", "shop", "--json", DATABASE_URL=url)).json()
    db = Database(url)
    ids = [rows.watch(db, made["id"], f"task-{number}") for number in range(3)]
    disable = ["apps", "disable", "shop"]
    only, both, again = await shell.run_many(
        disable, [*disable, "--stop", "--json"], [*disable, "--stop"], DATABASE_URL=url
    )
    assert "Nothing of it is polled or delivered" in only.out
    assert both.json() == {"id": made["id"], "name": "shop", "disabled": True, "stopped": 3}
    assert "0 watches were stopped" in again.out
    assert {db.run_here(watches.read, made["id"], one).row.state for one in ids} == {"cancelled"}
    db.close()


async def test_the_configuration_is_shown_without_its_secrets(shell: Shell) -> None:
    url = "postgres://relay:hidden-password@127.0.0.1/relay"
    urls = dict.fromkeys(["UNIFIED_VIDEO_BASE_URL", "OTEL_EXPORTER_OTLP_ENDPOINT"], "https://u:hidden@x.example")
    ran = await shell.run("config", DATABASE_URL=url, RELAY_RETRY_SCHEDULE="0s,5m", **SECRETS, **urls)
    assert (ran.code, ran.err) == (0, "")
    assert "hidden" not in ran.out
    for name in (*SECRETS, *urls, "DATABASE_URL"):
        assert re.search(rf"^ *{name} .*\*\*\*.* environment", ran.out, re.MULTILINE), name
    assert re.search(r"RELAY_RETRY_SCHEDULE +0s,5m +environment", ran.out)
    assert re.search(r"PORT +8000 +default", ran.out)
    assert re.search(rf"RELAY_CONFIG +{re.escape(str(CONFIG))} +environment", ran.out)
    (shell.folder / "token").write_text("a-metrics-token")
    ran = await shell.run("config", RELAY_METRICS_TOKEN_FILE="token", UNIFIED_VIDEO_API_KEY_FILE="token")
    for name in ("RELAY_METRICS_TOKEN", "UNIFIED_VIDEO_API_KEY"):
        assert re.search(rf"{name} +\*+ +{name}_FILE", ran.out), name


# Providers and the sandbox


async def test_the_sandbox_alone_and_the_providers(shell: Shell) -> None:
    async with shell.running("sandbox", "--port", "0") as sandbox:
        url = (await sandbox.says(r"The sandbox upstream is at (http://127\.0\.0\.1:\d+)"))[1]
        await sandbox.says(r"Try: curl .*complete-in-5s'\n")
        assert all(f"sandbox:{name} " in sandbox.printed for name in BEHAVIOURS)
        async with httpx.AsyncClient(base_url=url, verify=False) as http:
            query = {"id": "sandbox:complete-in-0s"}
            answer = await http.get("/v1/video/query", params=query, headers={"Authorization": "Bearer any"})
        assert answer.json()["status"] == "completed"

        ends, broken, unknown, listed, checked = await shell.run_many(
            ("providers", "try", "unified-video", "sandbox:complete-in-0s"),
            ("providers", "try", "unified-video", "sandbox:garbage-until-60s"),
            ("providers", "try", "unified-video", "sandbox:unknown"),
            ("providers", "list", "--json"),
            ("providers", "check", str(CONFIG / "providers" / "unified-video.toml")),
            UNIFIED_VIDEO_BASE_URL=url,
            UNIFIED_VIDEO_API_KEY="any",
            RELAY_ALLOWED_NETWORKS="127.0.0.0/8",
        )
        table = await shell.run("providers", "list")
        assert await sandbox.stop(signal.SIGINT) in (0, 130)
    assert ends.code == 0
    assert re.match(r"read as completed in \d+ ms\n", ends.out)
    shown = json.loads(ends.out.partition("\n")[2])
    assert (shown["status"], shown["result"]["width"]) == ("completed", 352)
    assert shown["result"]["url"].startswith("https://sandbox.invalid/")
    assert broken.code == 1
    assert "read as not_understood" in broken.out
    assert unknown.out.startswith("read as unknown_task")
    assert "Traceback" not in broken.err + unknown.err
    title = "Unified video query"
    assert {"name": "unified-video", "title": title, "configured": True} in listed.json()
    assert re.search(rf"unified-video +{title} +no address yet: set UNIFIED_VIDEO_BASE_URL", table.out)
    assert (checked.code, checked.out.count("\n")) == (0, 1)
    assert re.search(r"unified-video\.toml is well-formed: .* GET /v1/video/query", checked.out)


async def test_the_list_says_which_file_is_wrong_and_has_only_what_may_be_used(shell: Shell) -> None:
    folder = shell.folder / "config/providers"
    shutil.copytree(CONFIG / "providers", folder)
    (folder / "aaa.toml").write_text("[request]\npath = 1\n")
    listed, table, some = await shell.run_each(
        [
            (("providers", "list", "--json"), {}),
            (("providers", "list"), {}),
            (("providers", "list", "--json"), {"RELAY_PROVIDERS": "runway,kie-veo"}),
        ],
        RELAY_CONFIG="config",
    )
    assert [row["name"] for row in listed.json()] == sorted(file.stem for file in folder.glob("*.toml"))
    wrong = [row for row in listed.json() if "error" in row]
    assert [(row["name"], row["configured"]) for row in wrong] == [("aaa", False)]
    assert wrong[0]["error"].startswith("config/providers/aaa.toml: request.path: ")
    assert re.search(r"\n *aaa +cannot be used: config/providers/aaa\.toml: request\.path: ", table.out)
    assert [row["name"] for row in some.json()] == ["kie-veo", "runway"]


# The main job


async def test_a_task_is_watched_followed_and_told(shell: Shell, upstream: Upstream) -> None:
    """Everything by commands: an app, relay, a receiver, three tasks; then SIGTERM."""
    app = (await shell.run("apps", "create", "shop", "--json")).json()
    serve = shell.running(
        "serve",
        PORT="0",
        LOG_FORMAT="json",
        RELAY_ALLOWED_NETWORKS="127.0.0.0/8",
        RELAY_POLL_INTERVAL="0.1",
        UNIFIED_VIDEO_BASE_URL=upstream.url,
    )
    receiver = shell.running("listen", "--port", "0", "--secret", app["signing_secret"], "--body")
    async with serve as relay, receiver as listening:
        hook = (await listening.says(r"Listening on (http://127\.0\.0\.1:\d+)"))[1]
        ready = json.loads((await relay.says(r'.*"event": *"ready".*'))[0])
        url = ready["url"].replace("0.0.0.0", "127.0.0.1")
        assert not url.endswith(":0")
        environ = {"RELAY_URL": url, "RELAY_API_KEY": app["api_key"]}
        upstream.scripts["bad"] = [says("processing [/b] :x:", progress=50)] * 3 + [says("failed", error="[red]no")]
        upstream.scripts["big"] = done()
        good, others = await asyncio.gather(
            shell.run(
                *("watch", "sandbox:complete-in-1s", "--provider", "sandbox"),
                *("--webhook", f"{hook}/good", "--follow"),
                **environ,
            ),
            shell.run_each(
                [
                    (("watch", "bad", "--webhook", f"{hook}/bad", "--follow"), {}),
                    (("watch", "unfollowed", "--webhook", f"{hook}/1", "--webhook", f"{hook}/2"), {}),
                    (("watch", "x", "--webhook", "http://10.0.0.1/"), {}),
                    (("watch", "x", "--webhook", f"{hook}/x", "--provider", "nosuch"), {}),
                    (("watch", "..", "--webhook", f"{hook}/x"), {}),
                    (("watch", "x", "--webhook", f"{hook}/x"), {"RELAY_API_KEY": "rly_wrong"}),
                ],
                **environ,
            ),
        )
        bad, registered, refused, nosuch, dots, stranger = others
        assert (good.code, good.err) == (0, "")
        assert re.match(r"wch_\w+  watching\n", good.out)
        assert "pending" in good.out
        assert re.search(r"^completed: https://sandbox\.invalid/\S+\n\Z", good.out, re.MULTILINE)
        assert (bad.code, bad.err) == (1, "")
        assert re.search(r"^failed: \[red\]no\n\Z", bad.out, re.MULTILINE)
        assert re.fullmatch(r"wch_\w+  watching\n", registered.out)
        assert re.match("--webhook: .*RELAY_ALLOWED_NETWORKS", refused.complaint)
        assert re.match("--provider: 'nosuch'", nosuch.complaint)
        assert re.match("TASK_ID: ", dots.complaint)
        assert "API key" in stranger.complaint

        headers = {"Authorization": f"Bearer {app['api_key']}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, verify=False) as http:
            big = 123456789012345678901234567890
            target = {"type": "webhook", "url": f"{hook}/big"}
            body = {"task_id": "big", "targets": [target], "metadata": {"n": big, "é": "🎬"}}
            assert (await http.post("/v1/watches", json=body)).status_code == 201
        await listening.says(r"task\.completed  evt_\w+  verified\n")
        await listening.says(r"task\.failed  evt_\w+  verified\n")
        await listening.says(str(big))
        await listening.says('"é": "🎬"')
        assert "NOT VERIFIED" not in listening.printed

        assert await relay.stop() == 0
        assert "stopping" in [json.loads(line)["event"] for line in relay.printed.splitlines()]
        assert await listening.stop(signal.SIGINT) in (0, 130)
    checked, listed = await shell.run_many(["check"], ["apps", "list", "--json"])
    assert checked.code == 0
    assert listed.json()[0]["last_used_at"]


async def test_listen_tells_what_is_verified_from_what_is_not(shell: Shell) -> None:
    secret = signing.new_secret()
    async with (
        shell.running("listen", "--port", "0", "--secret", secret) as listening,
        httpx.AsyncClient(verify=False) as http,
    ):
        url = (await listening.says(r"Listening on (\S+)"))[1]
        bodies = [
            b'{"type": "task.completed", "n": [1]}',
            b'{"type": "[/b]", "x": "\\ud800"}',
            b"\xff",
            b"[]",
            b"1e999",
        ]
        for number, body in enumerate(bodies):
            at = int(time.time())
            headers = {"webhook-id": f"evt_{number}", "webhook-timestamp": str(at)}
            forged = {**headers, "webhook-signature": "v1," + "A" * 44}
            signed = {**headers, "webhook-signature": signing.sign([secret], f"evt_{number}", at, body)}
            assert (await http.post(f"{url}/any/path", content=body)).status_code == 401
            assert (await http.post(url, content=body, headers=forged)).status_code == 401
            assert (await http.post(url, content=body, headers=signed)).status_code == 200
            await listening.says(rf"evt_{number}  NOT VERIFIED: no signature .* matches")
            await listening.says(rf"evt_{number}  verified\n")
        assert listening.printed.count("NOT VERIFIED: the header 'webhook-id' is missing") == len(bodies)
        assert "[/b]  evt_1  verified" in listening.printed
        assert listening.printed.count("\n") == 1 + 3 * len(bodies), "a line for each event"
        assert (await http.get(url)).status_code == 405


# The schema


async def test_migrate_brings_any_database_there_and_is_harmless_afterwards(
    shell: Shell, postgres_url: str, tmp_path: Path
) -> None:
    urls = {"sqlite": f"sqlite:///{tmp_path / 'new.db'}", "postgresql": postgres_url}
    environ = {"RELAY_SECRET_KEY": "a-secret-key-for-the-tests", "PORT": "0"}
    refused = await shell.run_many(["serve"], ["worker"], ["apps", "list"], DATABASE_URL=postgres_url, **environ)
    assert all("relay migrate" in one.complaint for one in refused)
    lines = [(["migrate"], {"DATABASE_URL": url}) for url in [*urls.values()] * 2]
    for ran in await shell.run_each(lines):
        assert (ran.code, ran.out, ran.err) == (0, "The database is at the newest schema.\n", "")
    for url in urls.values():
        db = Database(url)
        assert db.run_here(migrate.behind) is None
        db.close()


async def test_after_a_rollback_relay_goes_on_with_the_newer_schema(shell: Shell, database_url: str) -> None:
    with contextlib.closing(Database(database_url)) as db:
        db.run_here(lambda tx: tx.exec_driver_sql("UPDATE alembic_version SET version_num = '9999_later'"))
    environ = {"DATABASE_URL": database_url, "RELAY_SECRET_KEY": "a-secret-key-for-the-tests"}
    migrated, *others = await shell.run_many(["migrate"], ["check"], ["apps", "list"], **environ)
    said = "The database is newer than this relay, which works with it: nothing was changed.\n"
    assert (migrated.code, migrated.out, migrated.err) == (0, said, "")
    assert [(one.code, one.err) for one in others] == [(0, "")] * 2
    async with shell.running("serve", PORT="0", **environ) as serving_:
        await serving_.says("ready ")
    with contextlib.closing(Database(database_url)) as db:
        assert db.run_here(lambda tx: tx.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()) == (
            "9999_later"
        )
