"""Configuration: defaults are valid, limits are exact, complaints name the setting."""

import dataclasses
from pathlib import Path

import pytest

from promise_svc.cli.settings import load_settings
from promise_svc.config import (
    ClusterConfig,
    ProcessConfig,
    address_text,
    environment_of,
    host_and_port,
    read_quote_keys,
)
from promise_svc.errors import ConfigError

RANGES: tuple[tuple[type[ClusterConfig] | type[ProcessConfig], str, float, float], ...] = (
    (ClusterConfig, "shard_count", 1, 4096),
    (ClusterConfig, "idempotency_window_seconds", 60, 86_400),
    (ClusterConfig, "ttl_default_seconds", 1, 14_400),
    (ClusterConfig, "outbox_events_kept", 0, 1_000_000),
    (ProcessConfig, "embedded_nodes", 1, 64),
    (ProcessConfig, "workers", 1, 64),
    (ProcessConfig, "deadline_seconds_max", 0.1, 300),
    (ProcessConfig, "message_bytes_max", 65_536, 67_108_864),
    (ProcessConfig, "calls_in_flight_max", 1, 100_000),
    (ProcessConfig, "order_store_connections_max", 1, 1_000),
    (ProcessConfig, "lame_duck_seconds", 0, 60),
    (ProcessConfig, "drain_seconds", 0, 300),
)


@pytest.mark.parametrize(("config", "name", "low", "high"), RANGES)
def test_a_number_is_taken_up_to_its_limits_and_not_beyond(
    config: type[ClusterConfig] | type[ProcessConfig], name: str, low: float, high: float
) -> None:
    """Both ends of the range are in, the next values out, and the complaint names the setting."""
    assert getattr(config(**{name: low}), name) == low
    assert getattr(config(**{name: high}), name) == high
    for outside in (low - 1, high + 1):
        with pytest.raises(ConfigError, match=name):
            config(**{name: outside})


def test_not_a_number_is_in_no_range() -> None:
    """NaN compares false with everything; it must not slip through."""
    with pytest.raises(ConfigError, match="drain_seconds"):
        ProcessConfig(drain_seconds=float("nan"))


def test_a_default_ttl_above_the_maximum_is_a_contradiction() -> None:
    """Both are in range by themselves."""
    with pytest.raises(ConfigError, match=r"ttl_default_seconds must be 1\.\.600"):
        ClusterConfig(ttl_max_seconds=600, ttl_default_seconds=601)


@pytest.mark.parametrize("prefix", ["", "A", "a{b}", "a:b", "x" * 33, "a b"])
def test_a_key_prefix_that_would_break_keys_is_refused(prefix: str) -> None:
    """A brace in it would move every key to another slot."""
    with pytest.raises(ConfigError, match="key_prefix"):
        ClusterConfig(key_prefix=prefix)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reserve_durability", "recorded"),
        ("reserve_durability", "replicated"),
        ("confirm_durability", "replicated"),
        ("confirm_durability", "certain"),
        ("log_level", "loud"),
        ("front", "apache"),
    ],
)
def test_a_choice_that_is_not_offered_is_refused_with_those_that_are(name: str, value: str) -> None:
    """The message lists the choices."""
    with pytest.raises(ConfigError, match=f"{name} must be one of .*, not '{value}'"):
        ProcessConfig(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:50051", ("127.0.0.1", 50051)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_an_address_is_host_and_port(address: str, expected: tuple[str, int]) -> None:
    """Port 0 asks for a free one."""
    assert host_and_port("listen", address) == expected


@pytest.mark.parametrize(
    "address", ["", "127.0.0.1", ":50051", "host:65536", "host:x", "::1:50051", "u@h:1", "h:1/x"]
)
def test_an_address_without_host_or_port_is_refused(address: str) -> None:
    """The message names the setting and what was given."""
    with pytest.raises(ConfigError, match=r"listen must be host:port"):
        ProcessConfig(listen=address)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("order_store_url", "mysql://u:secret@h/d"),
        ("order_store_url", "secret"),
        ("index_urls", ("redis://h:1", "http://u:secret@h:1")),
        ("index_urls", ("redis://",)),
        ("index_urls", ("redis://:secret@h:99999",)),
    ],
)
def test_a_wrong_url_is_refused_without_being_shown(name: str, value: object) -> None:
    """It may hold a password, and messages end in logs."""
    with pytest.raises(ConfigError, match=name) as refusal:
        ProcessConfig(**{name: value})  # type: ignore[arg-type]

    assert "secret" not in str(refusal.value)


def test_a_printed_configuration_shows_no_password() -> None:
    """The same for the object itself, which ends in logs too."""
    config = ProcessConfig(
        order_store_url="postgresql://u:secret@h/d", index_urls=("redis://:secret@h:1",)
    )

    assert "secret" not in repr(config)


def test_a_flag_wins_over_its_variable_and_that_over_the_default() -> None:
    """And a flag that was not given (None) does not hide the variable."""
    environment = {
        "PROMISE_SHARD_COUNT": "128",
        "PROMISE_DATA_DIR": "elsewhere",
        "PROMISE_REFLECTION": "no",
        "PROMISE_DRAIN_SECONDS": "2.5",
        "PROMISE_INDEX_URLS": "redis://a:1, redis://b:2",
        "HOME": "ignored",
    }

    cluster, process = load_settings({"shard_count": 16, "data_dir": None}, environment)

    assert cluster == ClusterConfig(shard_count=16)
    assert process == ProcessConfig(
        data_dir=Path("elsewhere"),
        reflection=False,
        drain_seconds=2.5,
        index_urls=("redis://a:1", "redis://b:2"),
    )


@pytest.mark.parametrize(
    ("variable", "text"), [("PROMISE_SHARD_COUNT", "many"), ("PROMISE_REFLECTION", "maybe")]
)
def test_a_variable_that_cannot_be_read_is_named(variable: str, text: str) -> None:
    """With what it says."""
    with pytest.raises(ConfigError, match=f"{variable} must be .*, not '{text}'"):
        load_settings({}, {variable: text})


def test_a_mistyped_variable_is_refused_with_the_nearest_name() -> None:
    """Silence would leave the default in force, unseen."""
    with pytest.raises(ConfigError, match="did you mean PROMISE_SHARD_COUNT"):
        load_settings({}, {"PROMISE_SHARDS_COUNT": "8"})


def test_a_configuration_goes_to_another_process_as_variables() -> None:
    """All of it, commas in a password included: a supervisor's children read it there."""
    cluster = ClusterConfig(shard_count=16)
    process = ProcessConfig(
        index_urls=("redis://:a,b@one:1", "redis://two:2"),
        data_dir=Path("some where"),
        reflection=False,
        lame_duck_seconds=0.25,
        workers=3,
    )

    read = load_settings({}, environment_of(cluster, process))

    assert read[0] == cluster
    assert read[1] == dataclasses.replace(
        process, index_urls=("redis://:a%2Cb@one:1", "redis://two:2")
    )


@pytest.mark.parametrize(
    ("listen", "port", "text"),
    [
        ("[::1]:0", 7, "[::1]:7"),
        ("localhost:1", 1, "localhost:1"),
        ("unix:/run/p", 0, "unix:/run/p"),
    ],
)
def test_an_address_is_told_with_the_port_that_was_had(listen: str, port: int, text: str) -> None:
    """As a client would write it."""
    assert address_text(ProcessConfig(listen=listen).listen, port) == text


def test_quote_keys_are_one_or_two_lines_the_first_of_which_signs(tmp_path: Path) -> None:
    """Read in order; without a file there are none, and the order store has one."""
    file = tmp_path / "keys"
    first, second = bytes(range(32)), b"k" * 32

    assert read_quote_keys(None) == ()
    file.write_text(f"{first.hex()}\n")
    assert read_quote_keys(file) == (first,)
    file.write_text(f"{first.hex()}\n{second.hex().upper()}\n")
    assert read_quote_keys(file) == (first, second)


@pytest.mark.parametrize(
    "content",
    ["", "aa" * 31, "aa" * 33, "zz" * 32, "aa" * 32 + "\n" + "aa" * 32, "é" * 64, "x" * 9]
    + ["\n".join(f"{key:02x}" * 32 for key in range(3))],
)
def test_a_file_without_good_quote_keys_is_refused_and_its_content_not_told(
    tmp_path: Path, content: str
) -> None:
    """The message names setting and file: what is wrong with a secret is not printed."""
    file = tmp_path / "keys"
    file.write_text(content, encoding="utf-8")

    with pytest.raises(ConfigError, match="quote_keys_file") as raised:
        read_quote_keys(file)

    assert str(file) in str(raised.value)
    assert not content or content[:8] not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_missing_file_of_quote_keys_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="quote_keys_file .*nowhere"):
        read_quote_keys(tmp_path / "nowhere")
