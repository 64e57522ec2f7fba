"""Reading a folder: what becomes of its rows, and what is refused, by file and line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from promise_svc.errors import ConfigError
from promise_svc.load.folder import read_folder
from promise_svc.load.parts import CALENDARS, INBOUND, ITEMS, LANES, NODES, SUPPLY
from tests.support.folders import COUNTS, FILES, write_folder


def refused(path: Path, **changed: str | None) -> list[str]:
    return [str(refusal) for refusal in read_folder(write_folder(path, **changed)).refusals]


def test_a_right_folder_becomes_messages(tmp_path: Path) -> None:
    """Every file's rows, joined where two files speak of one thing; nothing is refused."""
    folder = read_folder(write_folder(tmp_path))

    assert folder.refusals == []
    assert {name: len(part.entries) for name, part in folder.parts.items()} == COUNTS
    store = folder.part(NODES).entries[1]
    assert [(m.cutoff_time.hours, m.handling_duration.seconds) for m in store.methods] == [
        (12, 0), (20, 90 * 60),
    ]  # fmt: skip
    assert [e.date.day for e in folder.part(CALENDARS).entries[1].exceptions] == [25, 1]
    assert folder.part(ITEMS).entries[0].length_millimeters == 300


def test_zones_become_a_lane_for_each_service_of_the_zone(tmp_path: Path) -> None:
    """With the transit and, where told, the cost of the zone."""
    lanes = read_folder(write_folder(tmp_path)).part(LANES).entries

    found = [(x.node_id or x.node_group_id, x.postal_prefix, x.carrier_service,
              x.transit_business_days_max, x.base_cost_micros) for x in lanes]  # fmt: skip
    assert found == [
        ("store-1", "606", "ground", 1, 0),
        ("dc-1", "6", "ground", 2, 0),
        ("dc-1", "", "ground", 5, 7_490_000),
        ("dc-1", "", "air", 1, 0),
        ("stores", "", "ground", 5, 7_490_000),
        ("stores", "", "air", 1, 0),
    ]
    assert [lane.HasField("base_cost_micros") for lane in lanes[1:3]] == [False, True]


def test_supply_on_its_way_is_a_report_of_its_own(tmp_path: Path) -> None:
    """Numbered by the time its own file was written: a new one counts nothing here anew."""
    folder = write_folder(tmp_path)
    os.utime(folder / "supply.csv", (5, 5))
    os.utime(folder / "inbound.csv", (7, 7))

    read = read_folder(folder)

    first, second = read.part(INBOUND).entries
    assert (first.bucket, first.arrival_time.seconds) == ("po-7-1", 1_799_074_800)
    assert (second.on_hand, second.HasField("arrival_time"), second.arrived) == (0, False, True)
    assert read.source_sequences == {"supply": 5_000, "inbound": 7_000}


def test_the_first_safety_stock_rule_that_fits_decides(tmp_path: Path) -> None:
    """Only where supply.csv leaves it open; no rule leaves the position's own."""
    rows = read_folder(write_folder(tmp_path)).part(SUPPLY).entries

    assert [(row.sku, row.safety_stock, row.HasField("safety_stock")) for row in rows] == [
        ("sku-1", 0, False),
        ("sku-1", 2, True),  # a quarter of 5, a part of a unit counting as one
        ("sku-2", 3, True),
        ("sku-2", 1, True),
    ]


def test_a_figure_net_of_orders_says_so_in_its_row(tmp_path: Path) -> None:
    """A row that leaves the column empty is a plain count."""
    supply = "sku,node_id,on_hand,deducted_total\nsku-1,dc-1,-2,6\nsku-2,dc-1,40,\n"

    first, second = read_folder(write_folder(tmp_path, supply=supply)).part(SUPPLY).entries

    assert (first.on_hand, first.deducted_total) == (-2, 6)
    assert not second.HasField("deducted_total")


@pytest.mark.parametrize(
    ("name", "old", "new", "complaint"),
    [
        ("nodes", "America/New_York", "Mars/Olympus", "nodes.csv:4: time_zone must be an IANA"),
        ("nodes", "STORE,US,NY", "SHOP,US,NY", "nodes.csv:4: node_type must be one of STORE, "),
        ("nodes", "41.88", "north", "nodes.csv:3: latitude must be a number, not 'north'"),
        ("nodes", "41.88", "141.88", "nodes.csv:3: address.coordinates.latitude_degrees must be"),
        ("nodes", ",week\n", ",weak\n", "nodes.csv:2: calendars.toml has no calendar weak"),
        ("nodes", "store-2,", "store-1,", "nodes.csv:4: store-1 stands already in nodes.csv:3"),
        ("methods", "20:00,09:00,,90", "25:00,09:00,,90", "methods.csv:4: cutoff_time.hours must"),
        ("methods", "20:00,09:00,,90", "8pm,09:00,,90", "methods.csv:4: cutoff_time must be a ti"),
        ("methods", "store-2,", "store-9,", "methods.csv:5: nodes.csv has no node store-9"),
        ("methods", ",,1,\nstore", ",,1,5\nstore", "methods.csv:2: handling_business_days and"),
        ("node_groups", "store-2", "store-9", "node_groups.csv:3: nodes.csv has no node store-9"),
        ("items", "1200", "heavy", "items.csv:2: weight_grams must be a whole number, not 'heavy'"),
        ("items", "1200", "-1", "items.csv:2: weight_grams must be 0 to 10000000, not -1"),
        ("items", "sku-2", "sku 2", "items.csv:3: sku must begin with a letter or digit"),
        ("carrier_services", "4.99", "4.9999999", "carrier_services.csv:2: base_cost must be an"),
        ("carrier_services", "USD,14", "EUR,14", "carrier_services.csv:3: currency_code is EUR"),
        ("zones", "dc-1,,US,6", "dc-9,,US,6", "zones.csv:2: nodes.csv has no node dc-9"),
        ("zones", ",stores,US,,far", ",stores,US,,sea", "zones.csv:4: zone sea has no row in"),
        ("zones", ",stores,US", "dc-1,stores,US", "zones.csv:4: needs either node_id or node_grou"),
        ("lanes", "ground,0,1", "ground,2,1", "lanes.csv:2: transit_business_days_max must not"),
        ("supply", "dc-1,40", "dc-1,-40", "supply.csv:4: on_hand must be 0 to 2147483647, not -40"),
        ("supply", "sku-2,store-2", "sku-3,store-2", "supply.csv:5: items.csv has no item sku-3"),
        ("supply", "sku-2,dc-1", "sku-1,dc-1", "supply.csv:4: sku-1 at dc-1 stands already in su"),
        ("supply", "sku-2,dc-1,40,3", "sku-2,dc-1", "supply.csv:4: has 2 values, the header nam"),
        ("supply", "on_hand,", "onhand,", "supply.csv:1: unknown column 'onhand'; did you mean on"),
        ("inbound", "-06:00", "", "inbound.csv:2: arrival_time must be a time such as 2026-12-01T"),
        ("inbound", ",,yes", ",2027-01-04T09:00:00Z,yes", "inbound.csv:3: arrival_time must be em"),
        ("inbound", "po-7-1", "", "inbound.csv:2: supply_id must not be empty"),
        ("inbound", ",,yes", ",,true", "inbound.csv:3: arrived must be yes or no, not 'true'"),
        ("inbound", "sku-2,store-1,po-8", "sku-1,dc-1,po-7", "inbound.csv:3: po-7-1 of sku-1 to d"),
        ("inbound", "sku-2", "sku-9", "inbound.csv:3: items.csv has no item sku-9"),
        ("safety_stock_rules", ",,25", ",3,25", "safety_stock_rules.csv:2: needs either units or"),
        ("sourcing_rules", ",stores,yes", ",shops,yes", "sourcing_rules.csv:2: node_groups.csv ha"),
        ("sourcing_rules", "yes", "true", "sourcing_rules.csv:2: excluded must be yes or no, not"),
        ("sourcing_rules", ",8,", ",10,", "sourcing_rules.csv:3: priority must be 0 to 9, is 10"),
        ("sourcing_rules", ",,no,", ",stores,no,", "sourcing_rules.csv:4: max_shipments limits wh"),
        ("sourcing_rules", "8,0.75", "99999999999,0.75", "sourcing_rules.csv:3: priority must be "),
        ("safety_stock_rules", ",STORE", ",SHOP", "safety_stock_rules.csv:3: node_type must be"),
        ("calendars", '"MONDAY", "TUE', '"MONTAG", "TUE', "calendars.toml:1: calendar every-day"),
        ("calendars", "days_off", "day_off", "calendars.toml:4: calendar week: unknown day_off"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_refused_by_file_and_line(
    tmp_path: Path, name: str, old: str, new: str, complaint: str
) -> None:
    """Exactly what was broken, where it stands."""
    (file,) = [file for file in FILES if file.startswith(name + ".")]
    assert old in FILES[file]

    complaints = refused(tmp_path, **{name: FILES[file].replace(old, new, 1)})

    assert [text for text in complaints if text.startswith(complaint)]


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("sourcing_rules.toml", "", "sourcing_rules.toml: unknown file; did you mean sourcing_ru"),
        ("node.csv", "", "node.csv: unknown file; did you mean nodes.csv?"),
    ],
)
def test_what_the_service_cannot_do_is_refused_by_name(
    tmp_path: Path, file: str, text: str, complaint: str
) -> None:
    """Rather than read over: the retailer would believe in it."""
    write_folder(tmp_path)
    (tmp_path / file).write_text(text)

    (found,) = read_folder(tmp_path).refusals

    assert str(found).startswith(complaint)


def test_bundles_come_after_their_components(tmp_path: Path) -> None:
    """Wherever they stand, with one unit where no number is told."""
    items = "sku,bundle\nset,sku-1*2 sku-2\nsku-1,\nsku-2,\n"

    folder = read_folder(write_folder(tmp_path, items=items))

    *_, bundle = folder.part(ITEMS).entries
    assert folder.refusals == []
    assert (bundle.sku, folder.part(ITEMS).origins[-1].line) == ("set", 2)
    assert [(x.sku, x.quantity) for x in bundle.components] == [("sku-1", 2), ("sku-2", 1)]


def test_a_customer_limit_is_read_with_its_window(tmp_path: Path) -> None:
    """Units, hours, and whether a style counts together; without units there is none."""
    items = (
        "sku,shard_key,customer_limit,customer_limit_hours,customer_limit_by_shard_key\n"
        "sku-1,style,3,24,yes\nsku-2,,,,\n"
    )
    folder = read_folder(write_folder(tmp_path, items=items))

    first, second = folder.part(ITEMS).entries
    limit = first.customer_limit
    assert (limit.quantity_max, limit.window.seconds, limit.by_shard_key) == (3, 86_400, True)
    assert not second.HasField("customer_limit")


@pytest.mark.parametrize(
    ("bundle", "complaint"),
    [
        ("sku-1*two", "items.csv:4: bundle must be SKUs such as sku-a*2 sku-b, not 'sku-1*two'"),
        ("sku-9", "items.csv:4: items.csv has no item sku-9"),
        ("sku-1*0", "items.csv:4: quantity must be 1 to 1000, not 0"),
        ("set", "items.csv:4: sku is the bundle itself"),
        ("sku-1 pair", "items.csv:4: pair is a bundle; a bundle holds no bundles"),
    ],
)
def test_a_wrong_bundle_is_refused_by_file_and_line(
    tmp_path: Path, bundle: str, complaint: str
) -> None:
    """Before anything is sent."""
    items = f"sku,bundle\nsku-1,\nsku-2,\nset,{bundle}\npair,sku-2*2\n"

    assert complaint in refused(tmp_path, items=items)


def test_a_bundle_is_not_counted_in_a_folder_either(tmp_path: Path) -> None:
    """Its components are."""
    items = "sku,bundle\nsku-2,\nsku-1,sku-2*2\n"

    assert "supply.csv:2: sku-1 is a bundle; count its components" in refused(tmp_path, items=items)


def test_names_are_left_to_the_service_where_the_folder_lacks_their_file(tmp_path: Path) -> None:
    """A folder of counts alone is a folder."""
    write_folder(tmp_path, **dict.fromkeys(f.partition(".")[0] for f in FILES if f != "supply.csv"))

    assert read_folder(tmp_path).refusals == []


def test_a_row_keeps_its_line_after_a_text_over_several(tmp_path: Path) -> None:
    """Lines are those of the file, as an editor counts them."""
    items = 'sku,name\nsku-1,"two\nlines"\nsku 2,Mug\n'

    assert [text.partition(" ")[0] for text in refused(tmp_path, items=items)] == [
        "inbound.csv:3:", "items.csv:2:", "items.csv:4:", "protection_levels.csv:3:",
        "supply.csv:4:", "supply.csv:5:",
    ]  # fmt: skip


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    """Neither nothing nor emptiness is loaded in silence."""
    with pytest.raises(ConfigError, match="is no folder"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="has neither"):
        read_folder(tmp_path)
