"""The application of all commands, and what a failure looks like."""

import sys

import grpc
import typer
from rich.console import Console
from rich.text import Text

from promise_svc.cli import (
    capacity,
    child,
    delete,
    demo,
    doctor,
    explain,
    load,
    rebuild,
    reconcile,
    relay,
    replay,
    serve,
    token,
    verify,
    version,
)
from promise_svc.client import CallFailed
from promise_svc.errors import PromiseServiceError

SERVICE_AWAY = 3
"""What a command ends with when the service cannot be reached."""

app = typer.Typer(
    name="promise-svc",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _commands() -> None:
    """Delivery promises and stock reservations that never oversell."""


for command in (
    demo.demo, serve.serve, relay.relay, load.load, token.token, doctor.doctor, verify.verify,
    explain.explain, capacity.capacity, delete.delete, reconcile.reconcile, rebuild.rebuild,
    version.version,
):  # fmt: skip
    app.command()(command)
app.command(context_settings=replay.PASSED_ON)(replay.replay)
app.command(hidden=True)(child.child)


def main() -> None:
    """Run the command that the arguments name.

    A refusal of ours ends in one line and code 1, a service that cannot be reached in code 3;
    anything else is a fault and shows its trace.
    """
    try:
        app()
    except PromiseServiceError as error:
        console = Console(stderr=True)
        text = Text(f"promise-svc: {error.message}", "red")
        console.print(text, highlight=False, soft_wrap=True)  # one line, however narrow
        away = isinstance(error, CallFailed) and error.code is grpc.StatusCode.UNAVAILABLE
        sys.exit(SERVICE_AWAY if away else 1)
