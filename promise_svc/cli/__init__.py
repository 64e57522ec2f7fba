"""The command line: one command a file."""

from promise_svc.cli.app import main

__all__ = ["main"]
