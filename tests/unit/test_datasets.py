"""Converters on sets of a few made-up rows, written in the format of the real ones."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.datasets import olist, online_retail, us_retailer
from loadtest.datasets.files import shortest_prefixes
from loadtest.replay import olist as olist_replay
from loadtest.replay import online_retail as online_retail_replay
from promise_svc.load.folder import read_folder

TODAY = date(2026, 11, 26)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    with gzip.open(path, "wt") as file:
        file.write(text)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@given(st.dictionaries(st.text("0123", min_size=3, max_size=3), st.sampled_from("ab"), min_size=1))
def test_fewer_prefixes_say_the_same(zones: dict[str, str]) -> None:
    """The longest prefix that fits tells every code's zone, and there are no more than codes."""
    prefixes = shortest_prefixes(zones)

    for code, zone in zones.items():
        fitting = [prefix for prefix in prefixes if code.startswith(prefix)]
        assert prefixes[max(fitting, key=len)] == zone
    assert len(prefixes) <= max(1, len(zones)) + 1


def test_one_zone_is_one_prefix() -> None:
    """And an exception is one more."""
    assert shortest_prefixes(dict.fromkeys(("100", "101", "200"), "a")) == {"": "a"}
    assert shortest_prefixes({"100": "a", "101": "a", "200": "b"}) == {"": "a", "2": "b"}


@pytest.fixture
def olist_set(tmp_path: Path) -> Path:
    """Two sellers; an order delivered in April, and in May one delivered, one taken back, one never
    approved, one without lines."""
    set_ = tmp_path / "olist"
    write(set_ / "customers.csv.gz",
          "customer_id,customer_zip_code_prefix,customer_city,customer_state\n"
          + "".join(f"c{n},{'20000' if n % 2 else '01001'},x,{'RJ' if n % 2 else 'SP'}\n"
                    for n in range(6)))  # fmt: skip
    write(set_ / "sellers.csv.gz",
          "seller_id,seller_zip_code_prefix,seller_city,seller_state\n"
          "s1,01001,x,SP\ns2,69001,x,AM\n")  # fmt: skip
    write(set_ / "zip_prefixes.csv.gz",
          "zip_code_prefix,lat,lng,points\n01001,-23.55,-46.63,2\n"
          "69005,-3.1,-60.0,2\n")  # fmt: skip
    write(set_ / "products.csv.gz",
          "product_id,product_category_name,product_weight_g,product_length_cm,product_height_cm,"
          "product_width_cm\np1,artes,1000,30,18,20\np2,,,,,\n")  # fmt: skip
    write(set_ / "orders.csv.gz",
          "order_id,customer_id,order_status,order_purchase_timestamp,order_approved_at,"
          "order_delivered_carrier_date,order_delivered_customer_date,"
          "order_estimated_delivery_date\n"
          "o0,c0,delivered,2018-04-02 10:00:00,2018-04-02 11:00:00,2018-04-04 10:00:00,"
          "2018-04-10 10:00:00,2018-04-20 00:00:00\n"
          "o1,c1,delivered,2018-05-02 22:30:00,2018-05-02 22:10:00,2018-05-03 10:00:00,"
          "2018-05-09 10:00:00,2018-05-20 00:00:00\n"
          "o2,c2,canceled,2018-05-03 10:00:00,2018-05-03 11:00:00,,,2018-05-20 00:00:00\n"
          "o3,c3,created,2018-05-04 10:00:00,,,,2018-05-20 00:00:00\n"
          "o4,c4,unavailable,2018-05-05 10:00:00,2018-05-05 11:00:00,,,2018-05-20 00:00:00\n"
          )  # fmt: skip
    write(set_ / "order_items.csv.gz",
          "order_id,order_item_id,product_id,seller_id,shipping_limit_date,price,freight_value\n"
          "o0,1,p1,s1,x,1,10.0\no1,1,p1,s1,x,1,10.0\no1,2,p1,s1,x,1,10.0\n"
          "o2,1,p2,s2,x,1,9.0\no3,1,p1,s1,x,1,9.0\n")  # fmt: skip
    return set_


def test_olist_becomes_a_folder_that_loads(olist_set: Path, tmp_path: Path) -> None:
    """Sellers with a zone of their own, sizes in millimeters, transit and handling learned before
    the month, stock for the month's orders; nothing in it is refused."""
    out = tmp_path / "out"

    olist.convert(olist_set, out, month="2018-05", today=TODAY)

    assert read_folder(out).refusals == []
    nodes = {row["node_id"]: row for row in rows(out / "nodes.csv")}
    assert nodes["s1"]["time_zone"] == "America/Sao_Paulo"
    assert nodes["s2"]["time_zone"] == "America/Manaus"  # by the nearest prefix with coordinates
    assert rows(out / "items.csv")[0]["length_millimeters"] == "300"
    assert {row["handling_business_days"] for row in rows(out / "methods.csv")} == {"2"}
    transit = rows(out / "zone_transit.csv")[0]
    assert (transit["transit_business_days_min"], transit["base_cost"]) == ("4", "10.0")
    stock = {(row["sku"], row["node_id"]): int(row["on_hand"]) for row in rows(out / "supply.csv")}
    assert stock == {("p1", "s1"): 4, ("p2", "s2"): 2}


def test_a_month_without_a_past_is_refused(olist_set: Path, tmp_path: Path) -> None:
    """Its handling and transit could only be learned from itself."""
    with pytest.raises(ValueError, match="nothing was delivered before 2018-04"):
        olist.convert(olist_set, tmp_path / "out", month="2018-04", today=TODAY)


def test_a_limited_folder_has_what_its_orders_name(olist_set: Path, tmp_path: Path) -> None:
    """And the replay of the same orders finds everything there."""
    olist.convert(olist_set, tmp_path / "out", month="2018-05", today=TODAY, limit=1)

    assert [row["sku"] for row in rows(tmp_path / "out" / "items.csv")] == ["p1"]
    assert [row["node_id"] for row in rows(tmp_path / "out" / "nodes.csv")] == ["s1"]


def test_olists_orders_live_as_the_data_says(olist_set: Path, tmp_path: Path) -> None:
    """In whole weeks' distance and Brazilian time; an approval before the purchase comes with it;
    an order without approval is let go, one taken back is cancelled, one without lines counted."""
    out = tmp_path / "out"
    olist.convert(olist_set, out, month="2018-05", today=TODAY)

    replay = olist_replay.read_replay(olist_set, out)

    shift = json.loads((out / "replay.json").read_text())["shift_days"]
    assert shift % 7 == 0
    assert 0 <= (TODAY - date(2018, 5, 1)).days - shift < 7
    assert replay.without_lines == 1
    bought, off, dropped = replay.cases
    assert [event.verb for event in bought.events] == ["browse", "reserve", "confirm", "fulfill"]
    assert bought.events[1].at == bought.events[2].at == 86_400 + 22.5 * 3_600
    assert bought.lines == [("p1", 2, "s1")]
    assert bought.order_time is not None
    assert bought.order_time.utcoffset() == datetime.now(ZoneInfo("America/Sao_Paulo")).utcoffset()
    assert (bought.order_time.hour, bought.order_time.weekday()) == (22, 2)  # a Wednesday
    assert [event.verb for event in off.events][2:] == ["confirm", "cancel"]
    assert [event.verb for event in dropped.events][2:] == ["release"]


def test_dates_are_compared_where_the_parcel_was_really_sent(
    olist_set: Path, tmp_path: Path
) -> None:
    """In days from the purchase, moved back to when it was."""
    out = tmp_path / "out"
    olist.convert(olist_set, out, month="2018-05", today=TODAY)
    replay = olist_replay.read_replay(olist_set, out)
    (bought, *_) = replay.cases
    assert olist_replay.compare_dates(replay) is None

    bought.promised = date.fromordinal(date(2018, 5, 8).toordinal() + replay.shift_days)
    bought.promised_nodes = frozenset({"s1"})
    dates = olist_replay.compare_dates(replay)

    assert dates is not None
    assert (dates.ours_days, dates.theirs_days, dates.true_days) == (6, 18, 7)
    assert (dates.ours_on_time, dates.theirs_on_time) == (0, 1)


def invoices(*lines: Sequence[object]) -> str:
    header = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
    return header + "".join(
        f"{name},{sku},x,{quantity},2010-12-0{day} 08:00:00,1,{customer},UK\n"
        for name, sku, quantity, day, customer in lines
    )


def test_a_cancellation_takes_back_the_latest_order_of_just_that(tmp_path: Path) -> None:
    """What it only takes a part of is goods returned; postage and corrections are left out."""
    write(tmp_path / "online_retail.csv.gz", invoices(
        ("1", "10001", 5, 1, "a"), ("2", "10001", 5, 2, "a"), ("2", "10002b", 1, 2, "a"),
        ("3", "10001", 2, 2, "a"), ("3", "10001", 3, 2, "a"), ("4", "10001", 5, 2, "b"),
        ("C5", "10001", -5, 3, "a"), ("C6", "10002B", -1, 3, "a"),
        ("7", "POST", 1, 3, "a"), ("8", "10001", -9, 3, ""),
    ))  # fmt: skip

    cases, left_out = online_retail_replay.read_cases(tmp_path)

    assert left_out == {"not goods": 1, "stock corrections": 1}
    found = {case.key: [event.verb for event in case.events] for case in cases}
    shipped = ["reserve", "confirm", "fulfill"]
    assert found == {
        "1": shipped, "2": shipped, "3": ["reserve", "confirm", "cancel"], "4": shipped,
        "C6": ["return"],
    }  # fmt: skip
    assert cases[2].lines == [("10001", 2, "uk-dc"), ("10001", 3, "uk-dc")]
    online_retail.convert(tmp_path, tmp_path / "out", today=TODAY)
    assert read_folder(tmp_path / "out").refusals == []
    stock = {row["sku"]: row["on_hand"] for row in rows(tmp_path / "out" / "supply.csv")}
    assert stock == {"10001": "20", "10002B": "1"}


def test_a_us_retailer_has_real_hours_zones_and_time_zones(tmp_path: Path) -> None:
    """Stores hand over within their hours, centers ship by zone; the folder loads."""
    write(tmp_path / "locations/target_stores.csv.gz",
          "ID,Name,Address.Subdivision,Address.PostalCode,lat,long,BeginTime.MF,ThruTime.MF\n"
          "7,Loop,IL,60601-1234,41.88,-87.62,8:00:00,22:00:00\n"
          "8,Phoenix,AZ,85001,33.45,-112.07,7:30:00,0:00:00\n")  # fmt: skip
    write(tmp_path / "locations/walmart_stores_and_dcs_2006.csv.gz",
          "opendate,st.address,city,state,long,lat,type\n"
          "x,x,Bentonville,AR,-94.24,36.35,DistributionCenter\n"
          "x,x,Rogers,AR,-94.07,36.34,SuperCenter\n")  # fmt: skip
    zones = "".join(f"727,{area:03d},{1 + area % 3}\n" for area in range(5, 20))
    write(tmp_path / "carrier_zones/usps_zone3_2018.csv.gz", "origin_zip3,dest_zip3,zone\n" + zones)

    us_retailer.convert(tmp_path, tmp_path / "out", today=TODAY, sku_count=3)

    assert read_folder(tmp_path / "out").refusals == []
    nodes = {row["node_id"]: row for row in rows(tmp_path / "out" / "nodes.csv")}
    assert nodes["store-8"]["time_zone"] == "America/Phoenix"
    assert nodes["dc-01"]["postal_code"] == "72712"
    pickup = [r for r in rows(tmp_path / "out" / "methods.csv") if r["node_id"] == "store-8"]
    assert {(row["opening_time"], row["cutoff_time"]) for row in pickup} == {("07:30", "21:00")}
