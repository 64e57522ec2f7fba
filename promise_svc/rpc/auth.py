"""Who calls, and what they may do: bearer tokens, known by the hashes in one file.

A line of the file is ``NAME SCOPE[,SCOPE...] SHA256``, the last in hexadecimal; empty lines and
what follows a # are skipped. The file holds no secret: a token has 256 random bits, so its hash
tells nothing. `promise-svc token` makes a token and its line.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable
from enum import IntFlag
from pathlib import Path
from typing import NamedTuple

from promise_svc.errors import ConfigError, Unauthenticated
from promise_svc.telemetry import EventLog

FOLLOW_SECONDS = 1.0
"""How often the file is looked at: a token withdrawn is refused after at most this."""

FILE_BYTES_MAX = 4 * 1024 * 1024
TOKEN_CHARACTERS_MAX = 256
TOKEN_PREFIX = "psvc_"
"""Lets scanners of repositories and logs find a token that strayed."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASH = re.compile(r"[0-9a-f]{64}")

_log = EventLog("promise_svc.auth")


class Scope(IntFlag):
    """What a token opens. None implies another."""

    READ = 1
    """Availability, pickup, promises."""
    RESERVE = 2
    """Reservations, from holding to cancelling; also reading them."""
    SUPPLY = 4
    """Stock feeds and adjustments."""
    NETWORK = 8
    """Nodes, items, calendars, lanes."""
    ADMIN = 16
    """The audit, and why a figure is what it is."""


class Grant(NamedTuple):
    """One line of the file."""

    name: str
    scopes: Scope
    digest: bytes
    """SHA-256 of the token."""


def add_token(path: Path, name: str, scopes: str) -> str:
    """A new token, whose hash is added to the file; it is made where there is none.

    ConfigError when the file cannot be used, the name is taken, or name or scopes are wrong.
    """
    if path.exists() and name in {grant.name for grant in read_grants(path)}:
        raise ConfigError(f"{path} has a token named {name} already")
    if not _NAME.fullmatch(name):
        raise ConfigError("a name is 1 to 64 letters, digits, dots, _ and -, without spaces")
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    words = [name, scopes, _digest(token).hex()]
    _grant("the new token", words)
    line = " ".join(words)
    try:
        with path.open("a+b") as file:
            # A file edited by hand may end inside a line.
            end = file.seek(0, 2)
            file.seek(max(0, end - 1))
            file.write((b"" if file.read(1) in (b"", b"\n") else b"\n") + line.encode() + b"\n")
    except OSError as error:
        raise ConfigError(f"cannot write the tokens file {path}: {error.strerror}") from error
    return token


def parse_scopes(text: str) -> Scope:
    """``read,reserve`` as a value; ValueError names the word that is none."""
    scopes = Scope(0)
    for word in text.split(","):
        if word not in _SCOPES:
            raise ValueError(f"{word!r} is not of {', '.join(_SCOPES)}")
        scopes |= _SCOPES[word]
    return scopes


_SCOPES = {str(scope.name).lower(): scope for scope in Scope}


def read_grants(path: Path) -> list[Grant]:
    """All grants of a file. ConfigError names file and line, never what stands there."""
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise ConfigError(f"{path} has more than {FILE_BYTES_MAX:,} bytes")
        text = path.read_text("ascii")
    except OSError as error:
        raise ConfigError(f"cannot read the tokens file {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"the tokens file {path} is not ASCII") from None
    grants: dict[str, Grant] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if words:
            grant = _grant(f"{path}:{number}", words)
            if grant.name in grants:
                raise ConfigError(f"{path}:{number}: the name stands there twice")
            grants[grant.name] = grant
    return list(grants.values())


def _grant(where: str, words: list[str]) -> Grant:
    if len(words) != 3 or not _NAME.fullmatch(words[0]) or not _HASH.fullmatch(words[2]):
        raise ConfigError(f"{where}: a line is NAME SCOPE[,SCOPE...] SHA256 in hexadecimal")
    try:
        return Grant(words[0], parse_scopes(words[1]), bytes.fromhex(words[2]))
    except ValueError as error:
        raise ConfigError(f"{where}: scope {error}") from None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


class Tokens:
    """Tells which scopes a caller's ``authorization`` opens, as a number; follows its file."""

    def __init__(self, path: Path, refused: Callable[[bool], None] = lambda refused: None) -> None:
        """``refused`` is told whenever the file changed: True, if it cannot be used and what was
        read before stands."""
        self._path = path
        self._refused = refused
        self._seen = self._state()
        self._following: asyncio.Task[None] | None = None
        self._use(read_grants(path))

    def known(self, authorization: str | bytes | None) -> int:
        """What it opens if it was verified before, else 0; costs a look-up."""
        # A guess learns nothing from the time this takes: a dictionary compares texts only where
        # their hashes agree, and those are keyed by the process.
        return self._verified.get(authorization, 0)

    def scopes(self, authorization: str | bytes | None) -> int:
        """What ``Bearer TOKEN`` opens; Unauthenticated when it is missing or not known."""
        if found := self.known(authorization):
            return found
        if not isinstance(authorization, str):
            raise Unauthenticated("the call needs metadata `authorization: Bearer TOKEN`")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not 1 <= len(token) <= TOKEN_CHARACTERS_MAX:
            raise Unauthenticated("`authorization` is not of the form `Bearer TOKEN`")
        digest = _digest(token)
        grant = self._grants.get(digest)
        if grant is None or not hmac.compare_digest(digest, grant.digest):
            raise Unauthenticated("the token is not known, or no longer")
        if len(self._verified) < 2 * len(self._grants):  # `bearer` may be written in many ways
            self._verified[authorization] = grant.scopes.value
        return grant.scopes.value

    def refresh(self) -> bool:
        """Read the file again if it changed. ConfigError leaves everything as it was."""
        state = self._state()
        if state == self._seen:
            return False
        self._seen = state
        self._use(read_grants(self._path))
        return True

    def start(self) -> None:
        """Follow the file until ``close``."""
        self._following = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Stop following; idempotent."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait({self._following})
            self._following = None

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            try:
                if self.refresh():
                    self._refused(False)
                    _log.info("tokens read", token_count=len(self._grants))
            except ConfigError as error:
                self._refused(True)
                _log.error(
                    "the tokens file cannot be used; the earlier ones stand", error=str(error)
                )

    def _state(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _use(self, grants: Iterable[Grant]) -> None:
        self._grants = {grant.digest: grant for grant in grants}
        self._verified: dict[str | bytes | None, int] = {}
