"""The command `relay dev`: a relay to develop against, which needs no set-up and shows what to paste first.

It is `relay serve` with other defaults: SQLite in a temporary folder, the sandbox, receivers on this machine, an app
with a key that is shown, and a test inbox as the first target.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shlex
import signal
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from relay.cli.common import command_name, console
from relay.cli.embedded import embedded
from relay.errors import ConfigError
from relay.settings.sources import from_environment, load
from relay.simulators.receiver import Received
from relay.store import migrate
from relay.telemetry import logs
from relay.web.inbox import Inbox
from relay.web.server import listen
from relay.wiring import open_database, open_vault

if TYPE_CHECKING:
    from relay.settings.options import Settings

THIS_MACHINE = "127.0.0.0/8,::1/128"
"""The networks that targets may have besides the configured ones."""

TASK = "sandbox:complete-in-5s"


@dataclass(frozen=True, slots=True)
class DevApp:
    """The app of `relay dev`, named `default`, and what it is called with."""

    key: str
    secret: str


async def run_dev(port: int, file: Path | None) -> None:
    """Run relay until a signal stops it.

    Args:
        port: where to listen, on loopback; 0 for any that is free.
        file: the SQLite file, which stays; None for one that is removed at the end.

    Raises:
        ConfigError: the port is taken, or the file or the environment cannot be used.
    """
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    listener = listen("127.0.0.1", port, "--port")
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with tempfile.TemporaryDirectory(prefix="relay-dev-") as folder:
        environ = _environ(os.environ, url, file or Path(folder) / "relay.db")
        settings = load(environ)
        logs.set_up(settings.log_level, settings.log_format)
        _check_file(settings)
        app = _app(settings, environ)
        environ |= {"RELAY_API_KEY": app.key, "RELAY_SIGNING_SECRET": app.secret}
        inbox = Inbox(app.secret, lambda received: console.print(_line(received), soft_wrap=True))
        async with embedded(load(environ), environ, listener, _beside(inbox)) as relay:
            relay.context.inbox = f"{url}/inbox"
            _print_start(url, app, file)
            await stop.wait()


def _environ(environ: Mapping[str, str], url: str, file: Path) -> dict[str, str]:
    """Return the variables of `relay dev`: those of the environment, except for what development needs."""
    networks = environ.get("RELAY_ALLOWED_NETWORKS")
    return {
        "LOG_LEVEL": "warning",
        "RELAY_BASE_URL": url,
        **environ,
        "DATABASE_URL": f"sqlite:///{file.absolute()}",
        "RELAY_ALLOWED_NETWORKS": f"{networks},{THIS_MACHINE}" if networks else THIS_MACHINE,
        "RELAY_SANDBOX": "1",
    }


def _check_file(settings: Settings) -> None:
    """Make the database, or refuse a file that cannot be used before anything is made beside it."""
    try:
        with contextlib.closing(open_database(settings)) as db:
            migrate.ensure(db)
    except ConfigError as error:
        raise ConfigError(error.detail.replace("DATABASE_URL", "--db")) from None


def _app(settings: Settings, environ: Mapping[str, str]) -> DevApp:
    """Return the app that the environment declares. What it leaves out is derived from the key of the vault.

    So a given file has the same API key at every start, and a pasted one goes on working.
    """
    vault = open_vault(settings)
    key, secret = (base64.urlsafe_b64encode(vault.derived(f"relay dev {what}")[0]).decode() for what in ("key", "hook"))
    return DevApp(
        from_environment("RELAY_API_KEY", environ) or f"rly_{key.rstrip('=')}",
        from_environment("RELAY_SIGNING_SECRET", environ) or f"whsec_{secret.replace('-', '+').replace('_', '/')}",
    )


def _beside(inbox: Inbox) -> Callable[[ASGIApp], ASGIApp]:
    return lambda application: Starlette(routes=[*inbox.routes(), Mount("/", application)])


def _print_start(url: str, app: DevApp, file: Path | None) -> None:
    """Print where things are, and the three commands to paste."""
    relay = command_name()
    where = "" if url.endswith(":8000") else f"RELAY_URL={url} "
    body = {"task_id": f"{TASK}#1", "provider": "sandbox", "targets": [{"type": "webhook", "url": f"{url}/inbox"}]}
    lines = [
        f"relay is ready at {url} (Ctrl+C ends it{'' if file else ' and leaves nothing behind'})\n",
        f"  dashboard       {url}/",
        f"  test inbox      {url}/inbox",
        f"  API             {url}/docs",
        f"  API key         {app.key}",
        f"  signing secret  {app.secret}",
        f"  database        {file.absolute() if file else 'a temporary file; --db FILE keeps it'}",
        "\n1. Register a task of the sandbox. 5 s later its signed event is in the test inbox, and here:\n",
        f"curl {url}/v1/watches -H {shlex.quote(f'Authorization: Bearer {app.key}')} "
        f"-H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}",
        "\n2. In a second terminal, run a receiver of your own:\n",
        f"{relay} listen --port 9000 --secret {app.secret}",
        "\n3. In a third, register a task for it, and follow it until the event is delivered:\n",
        f"{where}RELAY_API_KEY={shlex.quote(app.key)} {relay} watch '{TASK}#2' --provider sandbox "
        "--webhook http://127.0.0.1:9000/ --follow\n",
    ]
    for line in lines:
        console.print(line, soft_wrap=True)


def _line(received: Received) -> Text:
    """Return the line of an event that has arrived in the inbox."""
    mark = Text("✓ ", style="bold green") if received.verified else Text("✗ ", style="bold red")
    verdict = "signature verified" if received.verified else f"NOT VERIFIED: {received.problem}"
    kind = str(received.event.get("type", "(no event)"))
    return Text.assemble(mark, (kind, "bold"), f"  {received.task_id}  ({verdict})")
