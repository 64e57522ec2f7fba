"""A short replay of real orders, and the audit of it. Skipped by name where the data is absent."""

from __future__ import annotations

from collections import Counter
from datetime import date
from pathlib import Path

import pytest

from loadtest.datasets import olist as olist_set
from loadtest.datasets import online_retail as online_retail_set
from loadtest.replay import olist as olist_replay
from loadtest.replay import online_retail as online_retail_replay
from loadtest.replay.case import Case
from loadtest.replay.player import Player
from loadtest.verify import audit_load
from promise_svc.client import PromiseClient
from promise_svc.load.folder import read_folder
from promise_svc.load.send import send_folder
from tests.e2e.conftest import Served
from tests.support.public_data import public_data

ORDERS = 150
INVOICES = 60


async def played(
    served: Served, folder: Path, cases: list[Case], log: Path, **how: float
) -> tuple[Player, Counter[str]]:
    """Load the folder, play the cases; the player and the cases' ends."""
    read = read_folder(folder)
    assert read.refusals == []
    target = f"127.0.0.1:{served.port}"
    async with PromiseClient(target, shard_count=served.cluster.shard_count) as client:
        loaded = await send_folder(client, read)
        assert loaded.refusals == []
        with log.open("w") as file:
            player = Player(client, file, **how)
            await player.run(cases)
    return player, Counter(case.outcome for case in cases)


@pytest.fixture(scope="module")
def logs() -> list[Path]:
    """Logs of all replays on the module's server: the audit wants everybody's."""
    return []


@pytest.fixture(scope="module")
def online_retail(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Case]]:
    """The converted folder and all cases: read once, it takes seconds."""
    source, folder = public_data("online_retail"), tmp_path_factory.mktemp("online-retail")
    online_retail_set.convert(source, folder, today=date.today())
    return folder, online_retail_replay.read_cases(source)[0]


async def audited(served: Served, logs: list[Path]) -> None:
    verdict = await audit_load(served.cluster, served.index_urls, served.order_store_url, logs)
    assert verdict.problems == []
    assert verdict.report.oversold_count == verdict.report.drift_count == 0


async def test_a_month_of_the_marketplace_adds_up(
    served: Served, tmp_path: Path, logs: list[Path]
) -> None:
    """Every order has one end, scarce products sell out and are never oversold, promises were made,
    and index, order store and the client's log agree."""
    source = public_data("olist")
    olist_set.convert(source, tmp_path, month="2018-05", today=date.today(), limit=ORDERS)
    replay = olist_replay.read_replay(source, tmp_path, ORDERS)
    logs.append(tmp_path / "log.jsonl")

    player, ends = await played(served, tmp_path, replay.cases, logs[-1])

    assert len(replay.cases) + replay.without_lines == ORDERS
    assert set(ends) <= {"CONFIRMED", "FULFILLED", "CANCELLED", "RELEASED",
                         "refused: INSUFFICIENT_STOCK"}  # fmt: skip
    assert ends["refused: INSUFFICIENT_STOCK"] > 0
    assert ends["FULFILLED"] > 0.8 * ORDERS
    assert player.unexpected == {}
    dates = olist_replay.compare_dates(replay)
    assert dates is not None
    assert dates.orders > 0.8 * len(replay.cases)
    await audited(served, logs)


async def test_a_speed_up_keeps_the_times_of_the_data(
    served: Served, tmp_path: Path, logs: list[Path], online_retail: tuple[Path, list[Case]]
) -> None:
    """Events begin when the data says, in time that runs as much faster as was asked for."""
    folder, cases = online_retail
    cases = [case for case in cases[:20] if len(case.lines) < 30]
    span = max(e.at for c in cases for e in c.events) - min(e.at for c in cases for e in c.events)
    logs.append(tmp_path / "log.jsonl")

    player, _ = await played(served, folder, cases, logs[-1], speed=span / 2)

    assert player.elapsed_seconds >= 1.99
    await audited(served, logs)


async def test_wholesale_baskets_are_held_whole_and_taken_back(
    served: Served, tmp_path: Path, logs: list[Path], online_retail: tuple[Path, list[Case]]
) -> None:
    """The basket of 1,114 lines is one hold; what one cancellation takes back whole is cancelled,
    other goods that came back can be sold again."""
    folder, cases = online_retail
    widest = max(cases, key=lambda case: len(case.lines))
    taken_back = [case for case in cases if any(e.verb == "cancel" for e in case.events)]
    chosen = {case.key: case for case in [*cases[20 : 20 + INVOICES], widest, *taken_back[:10]]}
    logs.append(tmp_path / "log.jsonl")

    player, ends = await played(served, folder, list(chosen.values()), logs[-1])

    assert len(widest.lines) > 1_000
    assert player.widest_seconds[0] == len(widest.lines)
    assert widest.outcome == "FULFILLED"
    assert ends["CANCELLED"] >= 10
    assert set(ends) <= {"FULFILLED", "CANCELLED", "RETURNED"}
    assert player.unexpected == {}
    await audited(served, logs)
