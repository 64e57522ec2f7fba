"""The tokens file: what is taken, what is refused and how, and how it is followed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from promise_svc.config import ProcessConfig
from promise_svc.errors import ConfigError, Unauthenticated
from promise_svc.rpc import auth
from promise_svc.rpc.auth import Scope, Tokens, add_token, parse_scopes, read_grants
from promise_svc.telemetry import Metrics
from tests.support.fronts import until

HASH = hashlib.sha256(b"secret").hexdigest()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


def test_a_token_made_is_the_token_known(path: Path) -> None:
    """The file keeps its hash alone; each is another; a line without an end is ended first."""
    path.write_text(f"old read {HASH}  # by hand")

    first = add_token(path, "shop-web", "read,reserve")
    second = add_token(path, "ops", "admin")

    tokens = Tokens(path)
    assert tokens.scopes(f"Bearer {first}") == Scope.READ | Scope.RESERVE
    assert tokens.scopes(f"Bearer {second}") == Scope.ADMIN
    assert tokens.scopes("Bearer secret") == Scope.READ
    assert first != second
    assert first not in path.read_text()
    assert len(first) >= 40


@pytest.mark.parametrize(
    "text",
    [
        "shop read",
        f"shop {HASH}",
        f"shop read {HASH[:-1]}",
        f"shop read {HASH.upper()}",
        f"shop write {HASH}",
        f"shop read, {HASH}",
        f"-shop read {HASH}",
        f"shop read {HASH} more",
        f"shop read {HASH}\nshop admin {HASH}",
    ],
)
def test_a_wrong_line_is_refused_by_number_and_not_repeated(path: Path, text: str) -> None:
    """Somebody may have pasted a token where its hash belongs."""
    path.write_text(f"# callers\n\nok read {HASH}\n{text}\n")

    with pytest.raises(ConfigError, match=r"tokens:[45]: ") as raised:
        read_grants(path)

    assert HASH not in raised.value.message


@pytest.mark.parametrize(
    ("name", "scopes"),
    [("", "read"), ("a b", "read"), ("shop", "write"), ("shop", ""), ("x", "read")],
)
def test_a_wrong_token_is_not_added(path: Path, name: str, scopes: str) -> None:
    """A name twice, no name, no scope: the file stays as it was."""
    path.write_text(f"x read {HASH}\n")

    with pytest.raises(ConfigError):
        add_token(path, name, scopes)

    assert path.read_text() == f"x read {HASH}\n"


def test_a_name_with_a_space_is_told_that_it_has_none(path: Path) -> None:
    """Not how a line of the file looks: the caller wrote none."""
    with pytest.raises(ConfigError, match="without spaces"):
        add_token(path, "bad name", "read")


def test_scopes_are_words_with_commas() -> None:
    """All of them, in any order."""
    assert parse_scopes("admin,read,network,supply,reserve") == Scope(31)


def test_a_missing_file_is_refused(path: Path) -> None:
    """At the start, by name."""
    with pytest.raises(ConfigError, match="cannot read the tokens file"):
        Tokens(path)


def test_what_was_verified_is_bounded(path: Path) -> None:
    """A caller may write ``bearer`` in many ways; they do not pile up."""
    token = add_token(path, "shop", "read")
    tokens = Tokens(path)

    for number in range(64):
        spelled = "".join(
            letter.upper() if number >> place & 1 else letter
            for place, letter in enumerate("bearer")
        )
        assert tokens.scopes(f"{spelled} {token}") == Scope.READ

    assert len(tokens._verified) <= 2


async def test_the_file_is_followed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new token is known, one withdrawn is not; a broken file leaves things as they were, and
    the gauge tells of it until it is mended."""
    monkeypatch.setattr(auth, "FOLLOW_SECONDS", 0.005)
    first = add_token(path, "shop", "read")
    metrics = Metrics()
    tokens = Tokens(path, metrics.file("tokens"))

    def refused() -> float | None:
        return metrics.registry.get_sample_value("promise_file_refused", {"file": "tokens"})

    assert refused() == 0
    tokens.start()

    second = add_token(path, "ops", "admin")
    await until(lambda: known(tokens, second))
    path.write_text("broken")
    await until(lambda: refused() == 1)
    assert known(tokens, first)
    os.replace(_written(path.with_name("next"), f"x read {HASH}\n"), path)
    await until(lambda: not known(tokens, first))
    await tokens.close()

    assert known(tokens, "secret")
    assert refused() == 0


def known(tokens: Tokens, token: str) -> bool:
    try:
        return bool(tokens.scopes(f"Bearer {token}"))
    except Unauthenticated:
        return False


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("listen", ["0.0.0.0:1", "[::]:1", "10.1.2.3:1", "shop.example:1"])
def test_an_open_door_is_refused(listen: str) -> None:
    """Off loopback there are tokens and TLS, or somebody said that they are not needed."""
    some = Path("some.pem")
    tls = {"tls_certificate_file": some, "tls_key_file": some}

    with pytest.raises(ConfigError, match="no tokens_file"):
        ProcessConfig(listen=listen, **tls)
    with pytest.raises(ConfigError, match="no tls_certificate_file"):
        ProcessConfig(listen=listen, tokens_file=some)

    ProcessConfig(listen=listen, tokens_file=some, **tls)
    ProcessConfig(listen=listen, allow_anonymous=True, allow_plaintext=True)


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"])
def test_loopback_needs_neither(listen: str) -> None:
    """Whoever reaches it is on the machine."""
    ProcessConfig(listen=listen)


def test_half_of_tls_is_refused() -> None:
    """A certificate without its key, and roots for callers without a certificate."""
    some = Path("some.pem")
    for half in ("tls_certificate_file", "tls_key_file", "tls_client_ca_file"):
        with pytest.raises(ConfigError, match="tls_"):
            ProcessConfig(**{half: some})  # type: ignore[arg-type]
