"""`promise-svc token`: a bearer token for a caller, and its line in the tokens file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from promise_svc.rpc.auth import add_token


def token(
    file: Annotated[Path, typer.Argument(help="The tokens file; made where there is none.")],
    name: Annotated[str, typer.Argument(help="The caller's name, such as shop-web.")],
    scopes: Annotated[
        str, typer.Argument(help="Of read, reserve, supply, network, admin; with commas.")
    ],
) -> None:
    """Make a token, add its hash to FILE, and print the token: this once, and nowhere else.

    A running server takes it within a second. Delete the line to withdraw it.
    """
    made = add_token(file, name, scopes)
    print(made)
    print(f"added {name} ({scopes}) to {file}; the token is not kept", file=sys.stderr)
