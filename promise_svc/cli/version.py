"""`promise-svc version`: what runs here."""

import platform

import typer

from promise_svc import __version__, hotpath
from promise_svc.adapters.embedded import engine_versions


def version() -> None:
    """Print the versions of the service, of Python, of the front and of the bundled engines."""
    typer.echo(f"promise-svc {__version__}")
    typer.echo(f"Python {platform.python_version()}")
    if hotpath.NATIVE_FRONT:
        typer.echo("front native")
    else:
        typer.echo("front grpcio: built without libnghttp2")
    for line in engine_versions():
        typer.echo(line)
