"""What a refused hold asks for instead: what fits, in request order, and always less."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promise_svc.application.hold_policy import reduced
from promise_svc.application.reservation_body import CreateCommand, RequestedLine
from promise_svc.application.sourced_lines import LineOutcome, ShortUnits, of_requested
from promise_svc.domain.bundle import BundleLine
from promise_svc.domain.network import BundleComponent, Item
from promise_svc.domain.reservation import CreateOutcome, HoldPolicy
from tests.support.networks import a_snapshot
from tests.support.reservation_world import a_cart

SET = (BundleComponent("A", 2), BundleComponent("B", 1))
SNAPSHOT = a_snapshot(Item(sku="A"), Item(sku="B"), Item(sku="SET", components=SET))
FINE, SHORT = CreateOutcome.OTHER_LINE_REFUSED, CreateOutcome.INSUFFICIENT_STOCK
LIMIT = CreateOutcome.CUSTOMER_LIMIT
FEWER = (HoldPolicy.PER_LINE, HoldPolicy.PARTIAL)


def asked(policy: HoldPolicy, *lines: tuple[str, int], node_id: str = "") -> CreateCommand:
    wanted = tuple(RequestedLine(f"l{n}", *line, node_id) for n, line in enumerate(lines))
    return a_cart("r-1", (), lines=wanted, policy=policy)


def fewer(command: CreateCommand, *told: tuple[Any, ...]) -> list[tuple[str, int]]:
    refusals = [LineOutcome(f"l{n}", *refusal) for n, refusal in enumerate(told)]
    found = reduced(command, refusals, SNAPSHOT)
    return [] if found is None else [(x.line_id, x.quantity) for x in found.lines]


def test_a_line_nothing_was_told_against_takes_its_share_first() -> None:
    """And one behind gives way to those before it, told as they were."""
    command = asked(HoldPolicy.PARTIAL, ("A", 18), ("A", 20), ("A", 3), ("B", 1))
    told = [LineOutcome(f"l{n}", FINE) for n in range(4)]
    told[1] = LineOutcome("l1", SHORT, 24)

    found = reduced(command, told, SNAPSHOT)

    assert found is not None
    assert [(x.line_id, x.quantity) for x in found.lines] == [("l0", 18), ("l1", 6), ("l3", 1)]
    assert [(x.line_id, x.quantity, x.outcome, x.ats) for x in found.unheld] == [
        ("l1", 14, SHORT, 24),
        ("l2", 3, SHORT, 24),
    ]


def test_a_limit_is_shared_by_the_lines_it_counts() -> None:
    """Each line is told all that it leaves: the second fits where the first goes."""
    lines = (("A", 5), ("A", 2))

    assert fewer(asked(FEWER[0], *lines), (LIMIT, 3), (LIMIT, 3)) == [("l1", 2)]
    assert fewer(asked(FEWER[1], *lines), (LIMIT, 3), (LIMIT, 3)) == [("l0", 3)]


def test_a_bundle_says_which_components_are_too_few() -> None:
    """Beside the sets that the scarcest is enough for."""
    parts = [LineOutcome("l0#1", SHORT, 24, "n1"), LineOutcome("l0#2", SHORT, 7, "n1")]

    (told,) = of_requested(parts, [BundleLine("l0", "SET", SET)])

    assert told[:4] == ("l0", SHORT, 7, "n1")
    assert told.short == (ShortUnits("A", "n1", 24), ShortUnits("B", "n1", 7))


@pytest.mark.parametrize("policy", FEWER)
def test_a_line_that_does_not_fit_the_split_limit_makes_way_for_the_others(
    policy: HoldPolicy,
) -> None:
    split = CreateOutcome.SPLIT_LIMIT

    assert fewer(asked(policy, ("A", 2), ("B", 2)), (FINE,), (split, 9)) == [("l0", 2)]


@given(
    st.sampled_from(FEWER),
    st.lists(
        st.tuples(
            st.sampled_from(("A", "B", "SET")),
            st.integers(1, 30),
            st.sampled_from(("", "n1")),
            st.sampled_from(sorted(set(CreateOutcome) - {CreateOutcome.PARTLY_HELD})),
            st.integers(-1, 60),
        ),
        min_size=1,
        max_size=6,
    ),
)
def test_whatever_was_told_the_next_request_is_for_less(
    policy: HoldPolicy, lines: list[tuple[str, int, str, CreateOutcome, int]]
) -> None:
    """Also where the refusal does not say why: so asking comes to an end."""
    wanted = tuple(RequestedLine(f"l{n}", *line[:3]) for n, line in enumerate(lines))
    command = a_cart("r-1", (), lines=wanted, policy=policy)
    told = [LineOutcome(f"l{n}", *line[3:]) for n, line in enumerate(lines)]

    found = reduced(command, told, SNAPSHOT)

    if found is not None:
        units = sum(line.quantity for line in found.lines)
        given_up = sum(line.quantity for line in found.unheld)
        assert 0 < units < sum(line[1] for line in lines) == units + given_up
