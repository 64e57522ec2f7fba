"""`promise-svc version`: what runs here."""

import platform

import typer

from promise_svc import __version__
from promise_svc.adapters.embedded import engine_versions


def version() -> None:
    """Print the versions of the service, of Python and of the bundled engines."""
    typer.echo(f"promise-svc {__version__}")
    typer.echo(f"Python {platform.python_version()}")
    for line in engine_versions():
        typer.echo(line)
