"""Named cases of the search; brute force over random carts is in tests/property."""

from __future__ import annotations

from datetime import date, timedelta

from promise_svc.domain.frontier import best_plan, frontier
from promise_svc.domain.sourcing import Candidate, DeliveryOption, Demand, SourcingPlan, Work

DAY_ONE = date(2026, 11, 23)


def option(days: int = 0, base: int = 0, kilogram: int = 0, name: str = "ground") -> DeliveryOption:
    return DeliveryOption(name, DAY_ONE + timedelta(days=days), base, kilogram)


def node(name: str, *ats: int, at: tuple[DeliveryOption, ...] = (), meters: int = 0) -> Candidate:
    return Candidate(name, ats, at or (option(),), meters)


def wants(*quantities: int, grams: int = 1000) -> tuple[Demand, ...]:
    return tuple(Demand(f"S{i}", quantity, grams) for i, quantity in enumerate(quantities))


def sent(plan: SourcingPlan | None) -> dict[str, tuple[int, ...]]:
    return {} if plan is None else {s.node_id: s.quantities for s in plan.shipments}


def test_one_unit_in_each_of_two_places_fills_an_order_of_two() -> None:
    """Quantities are split over nodes, not lines over nodes."""
    plan = best_plan(wants(2), (node("A", 1), node("B", 1)), max_shipments=2)

    assert sent(plan) == {"A": (1,), "B": (1,)}
    assert plan is not None
    assert plan.exact


def test_the_split_limit_is_never_passed() -> None:
    """Two shipments are needed, one is allowed."""
    assert best_plan(wants(2), (node("A", 1), node("B", 1)), max_shipments=1) is None


def test_the_split_limit_holds_where_each_sku_alone_would_fit() -> None:
    """One shipment covers either SKU; no one node has both."""
    cart = wants(1, 1), (node("A", 1, 0), node("B", 0, 1))

    assert best_plan(*cart, max_shipments=1) is None
    assert sent(best_plan(*cart, max_shipments=2)) == {"A": (1, 0), "B": (0, 1)}


def test_one_far_dear_late_node_beats_two_near_cheap_early_ones() -> None:
    """Fewest shipments come first."""
    far = node("Z", 1, 1, at=(option(days=9, base=99),), meters=10**7)

    plan = best_plan(wants(1, 1), (node("A", 1, 0), node("B", 0, 1), far), max_shipments=2)

    assert sent(plan) == {"Z": (1, 1)}


def test_among_equals_the_earliest_then_the_cheapest_then_the_nearest_wins() -> None:
    """Each criterion decides when those before it tie."""
    late = node("A", 1, at=(option(days=1),))
    dear = node("B", 1, at=(option(base=2),))
    far = node("C", 1, at=(option(base=1),), meters=20)
    near = node("D", 1, at=(option(base=1),), meters=10)

    nodes = (late, dear, far, near)
    order = []
    while nodes:
        order += sent(best_plan(wants(1), nodes, max_shipments=1))
        nodes = tuple(n for n in nodes if n.node_id not in order)

    assert order == ["D", "C", "B", "A"]


def test_full_ties_go_to_the_smallest_id_whatever_the_input_order() -> None:
    """Determinism."""
    nodes = tuple(node(name, 1) for name in "CABD")

    assert list(sent(best_plan(wants(1), nodes, max_shipments=1))) == ["A"]
    assert list(sent(best_plan(wants(1), nodes[::-1], max_shipments=1))) == ["A"]


def test_a_nearer_pair_is_found_where_greedy_starts_with_the_fuller_node() -> None:
    """Same count, date and cost: only distance decides."""
    a, b = node("A", 2, 1, meters=10), node("B", 0, 1, meters=10)
    c, d = node("C", 1, 1, meters=1), node("D", 1, 1, meters=1)

    plan = best_plan(wants(2, 2), (a, b, c, d), max_shipments=2)

    assert list(sent(plan)) == ["C", "D"]


def test_weight_goes_to_the_lowest_cost_per_kilogram() -> None:
    """Both nodes are needed; the cheap one sends all it has."""
    dear, cheap = node("A", 3, at=(option(kilogram=9),)), node("B", 3, at=(option(kilogram=1),))

    plan = best_plan(wants(4), (dear, cheap), max_shipments=2)

    assert sent(plan) == {"A": (1,), "B": (3,)}
    assert plan is not None
    assert plan.cost_nanos == (9 * 1 + 1 * 3) * 1000


def test_a_faster_service_of_the_same_node_is_another_option() -> None:
    """The frontier lists both; the earlier is best."""
    both = (option(days=3, base=1, name="economy"), option(days=1, base=9, name="express"))

    plans = frontier(wants(1), (node("A", 1, at=both),), max_shipments=1)

    assert [plan.shipments[0].option.name for plan in plans] == ["express", "economy"]


def test_a_split_is_offered_where_it_is_earlier() -> None:
    """One late shipment first, two early ones second."""
    whole = node("C", 1, 1, at=(option(days=5),))

    plans = frontier(wants(1, 1), (node("A", 1, 0), node("B", 0, 1), whole), max_shipments=2)

    assert [sent(plan) for plan in plans] == [{"C": (1, 1)}, {"A": (1, 0), "B": (0, 1)}]


def test_nothing_comes_of_no_candidates_and_of_no_stock() -> None:
    """No plan, no error."""
    assert best_plan(wants(1), (), max_shipments=3) is None
    assert best_plan(wants(1), (node("A", 0),), max_shipments=3) is None
    assert frontier(wants(1), (), max_shipments=3) == []


def test_a_search_cut_short_says_so_and_how_few_shipments_there_must_be() -> None:
    """Greedy takes A and needs three; B and C do it in two. Without steps greedy stands, and all
    that is known is that one shipment might do."""
    nodes = (
        node("A", 2, 2, 0, 0),
        node("B", 2, 0, 2, 0),
        node("C", 0, 2, 0, 2),
    )
    demands = wants(2, 2, 2, 2)

    short = best_plan(demands, nodes, max_shipments=3, work=Work(0))
    full = best_plan(demands, nodes, max_shipments=3)

    assert short is not None
    assert full is not None
    assert (len(short.shipments), short.exact, short.shipment_count_bound) == (3, False, 1)
    assert (len(full.shipments), full.exact, full.shipment_count_bound) == (2, True, 2)


def test_a_network_of_two_thousand_nodes_stays_within_its_steps() -> None:
    """Ten lines, no node with all of them: an answer within the default bound, not a hang."""
    nodes = tuple(
        Candidate(
            f"N{i:04}",
            tuple((i * 7 + line * 13) % 5 for line in range(10)),
            (option(days=i % 3, base=i % 11),),
            i,
        )
        for i in range(2000)
    )

    plan = best_plan(wants(*[4] * 10), nodes, max_shipments=5)

    assert plan is not None
    assert 2 <= len(plan.shipments) <= 5
