"""`promise-svc version`: what runs here."""

import json
import platform

import typer

from promise_svc import __version__, hotpath
from promise_svc.adapters.embedded import engine_versions
from promise_svc.cli.options import AsJson


def version(as_json: AsJson = False) -> None:
    """Print the versions of the service, of Python, of the front and of the bundled engines."""
    engines = engine_versions()
    front = "native" if hotpath.NATIVE_FRONT else "grpcio: built without libnghttp2"
    if as_json:
        found = {"promise_svc": __version__, "python": platform.python_version(), "front": front,
                 "compiled": hotpath.COMPILED, "engines": engines}  # fmt: skip
        print(json.dumps(found))
        return
    typer.echo(f"promise-svc {__version__}")
    typer.echo(f"Python {platform.python_version()}")
    typer.echo(f"front {front}")
    for line in engines:
        typer.echo(line)
