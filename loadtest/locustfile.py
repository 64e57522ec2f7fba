"""The same workload for people who use Locust, headless or with its web page.

locust -f loadtest/locustfile.py --host 127.0.0.1:50051 --scenario checkout_mix

Locust's users wait for replies, so it is a closed loop: a slow server is asked less. Use it to look
at the service under so many users; the numbers that count come from `python -m loadtest`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import grpc
import grpc.experimental.gevent
from locust import User, between, events, task

from loadtest.catalog import Catalog
from loadtest.report import outcome_name
from loadtest.scenario import Scenario, load_scenario
from loadtest.workload import Workload

grpc.experimental.gevent.init_gevent()

DEADLINE_SECONDS = 10.0
_plan: dict[str, Any] = {}


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_options(parser: Any) -> None:
    parser.add_argument("--scenario", default="checkout_mix", help="of loadtest/scenarios/")
    parser.add_argument("--load-catalog", action="store_true", help="load network and stock first")


@events.init.add_listener  # type: ignore[untyped-decorator]
def _prepare(environment: Any, **_: Any) -> None:
    # Before the run, so that its time is not spent on loading.
    options = environment.parsed_options
    scenario: Scenario = load_scenario(options.scenario)
    catalog = Catalog(scenario.catalog, scenario.seed)
    if options.load_catalog:
        # In a process of its own: asyncio and gevent do not share one.
        command = [sys.executable, "-m", "loadtest.loader", options.host, options.scenario]
        subprocess.run(command, check=True)
    workload = Workload(
        catalog, scenario.workload, seed=scenario.seed, run=f"locust{int(time.time()):x}"
    )
    _plan["sessions"] = workload.sessions()


class Shopper(User):
    """Makes the calls of one session after the other."""

    wait_time = between(0.1, 1.0)

    def on_start(self) -> None:
        self._channel = grpc.insecure_channel(self.host or "127.0.0.1:50051")

    def on_stop(self) -> None:
        self._channel.close()

    @task
    def session(self) -> None:
        """Every call is reported; an outcome that is a refusal ends the session as it should."""
        for step in next(_plan["sessions"]):
            begun = time.perf_counter()
            error, reply = None, b""
            try:
                reply = self._channel.unary_unary(step.path)(step.message, timeout=DEADLINE_SECONDS)
            except grpc.RpcError as failed:
                error = failed
            outcome = reply[1] if len(reply) > 1 and reply[0] == 0x08 else 0
            name = "" if error else f" {outcome_name(step.path, 0, outcome)}"
            self.environment.events.request.fire(
                request_type="grpc",
                name=step.path.rsplit("/", 1)[1] + name,
                response_time=(time.perf_counter() - begun) * 1000,
                response_length=len(reply),
                exception=error,
                context={},
            )
            if error or outcome > 1:
                return
