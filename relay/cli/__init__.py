"""The command line: every command says what it does, with an example, and ends with one line when it cannot."""

from __future__ import annotations

import errno
import sys
from typing import Annotated, NoReturn

import typer

from relay import __version__
from relay.cli import apps, keep, providers, run, slack
from relay.cli.base import console, make_streams_writable, nowhere
from relay.errors import RelayError


def _group(description: str, **commands: object) -> typer.Typer:
    group = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
        help=description,
    )
    for name, command in commands.items():
        group.command(name.replace("_", "-"))(command)  # type: ignore[type-var]
    return group


cli = _group(
    "relay: webhooks for APIs that have none. Start with 'relay demo'.",
    demo=run.demo,
    serve=run.serve,
    web=run.web,
    worker=run.worker,
    migrate=keep.migrate_,
    watch=run.watch,
    listen=run.listen_,
    sandbox=run.sandbox,
    check=keep.check,
    config=keep.config,
)
cli.add_typer(
    _group(
        "Calling applications: their API keys and signing secrets.\n\nExample: relay apps create shop",
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
        "The declared upstreams.\n\nExample: relay providers list",
        list=providers.list_,
        check=providers.check,
        **{"try": providers.try_},
    ),
    name="providers",
)
cli.add_typer(
    _group(
        "What relay stores sealed.\n\nExample: RELAY_SECRET_KEY=new,old relay secrets rotate",
        rotate=keep.rotate_secrets,
    ),
    name="secrets",
)
cli.add_typer(
    _group("Setting Slack up.\n\nExample: relay slack check '#renders'", manifest=slack.manifest, check=slack.check),
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
    """The command `relay`: 0 ok, 1 failed, 2 wrong usage."""
    make_streams_writable()
    try:
        try:
            cli()
        finally:
            sys.stdout.flush()
    except RelayError as error:
        _fail(error.detail)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EPIPE):
            raise
        sys.stdout = nowhere()  # or the interpreter would try once more, and complain
        _fail(f"cannot write: {error.strerror}")


def _fail(why: str) -> NoReturn:
    print(f"relay: {why}", file=sys.stderr)
    sys.exit(1)
