"""The command line. The help of each command shows an example; a command that fails prints one line that says why."""

from __future__ import annotations

import errno
import logging
import os
import sys
from typing import Annotated, NoReturn

import typer

from relay import __version__
from relay.cli import (
    apps,
    deliveries,
    deployment,
    development,
    processes,
    provider_drafts,
    providers,
    slack,
    submit,
    watch,
)
from relay.cli.common import console, make_streams_writable, null_stream
from relay.errors import RelayError


def _group(description: str, *, completion: bool = False, **commands: object) -> typer.Typer:
    group = typer.Typer(
        no_args_is_help=True,
        add_completion=completion,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
        help=description,
    )
    for name, command in commands.items():
        group.command(name.rstrip("_").replace("_", "-"))(command)  # type: ignore[type-var]
    return group


cli = _group(
    "relay: webhooks for APIs that have none. Start with 'relay demo', then 'relay dev'.",
    completion=True,
    demo=development.demo,
    dev=development.dev,
    serve=processes.serve,
    web=processes.web,
    worker=processes.worker,
    migrate=deployment.migrate_,
    watch=watch.watch,
    watches=watch.watches,
    deliveries=deliveries.deliveries,
    retry=deliveries.retry,
    submit=submit.submit,
    listen=development.listen_,
    sandbox=development.sandbox,
    check=deployment.check,
    config=deployment.config,
)
cli.add_typer(
    _group(
        "Manage apps: their API keys and signing secrets.\n\nExample: relay apps create shop",
        create=apps.create,
        list=apps.list_,
        rotate_key=apps.rotate_key,
        rotate_secret=apps.rotate_secret,
        disable=apps.disable,
    ),
    name="apps",
)
cli.add_typer(
    _group(
        "List, show, check, draft and try the declared upstreams.\n\nExample: relay providers list",
        list=providers.list_,
        show=providers.show,
        check=providers.check,
        read=providers.read,
        new=provider_drafts.new,
        try_=providers.try_,
    ),
    name="providers",
)
cli.add_typer(
    _group(
        "Manage the secrets that relay stores sealed.\n\n"
        "Example: RELAY_SECRET_KEY=new-key,old-key relay secrets rotate",
        rotate=deployment.rotate_secrets,
    ),
    name="secrets",
)
cli.add_typer(
    _group("Set up Slack.\n\nExample: relay slack check '#renders'", manifest=slack.manifest, check=slack.check),
    name="slack",
)


def _version(wanted: bool) -> None:
    if wanted:
        console.print(__version__)
        raise typer.Exit


@cli.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


def main() -> None:
    """Run the command `relay`. The exit code is 0 for success, 1 for failure, 2 for wrong usage."""
    make_streams_writable()
    os.umask(0o077)  # what relay writes is for its own user only
    try:
        try:
            cli()
        finally:
            sys.stdout.flush()
            logging.shutdown()  # writes what waits: the error below is the last line
    except RelayError as error:
        _fail(error.detail)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EPIPE):
            raise
        sys.stdout = null_stream()  # otherwise the interpreter tries once more when it exits, and complains
        _fail(f"cannot write: {error.strerror}")


def _fail(message: str) -> NoReturn:
    print(f"relay: {message}", file=sys.stderr)
    sys.exit(1)
