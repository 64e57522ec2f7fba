"""Places of the contiguous United States, from the `zipcodes` package."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import zipcodes

from promise_svc.domain.geography import distance_m

OUTLYING = frozenset({"AK", "HI", "PR", "VI", "GU", "AS", "MP", "AA", "AE", "AP"})
"""No lane of the demo goes there."""


class Place(NamedTuple):
    """One postal code."""

    postal_code: str
    city: str
    region: str
    latitude: float
    longitude: float
    time_zone: str


class Center(NamedTuple):
    """The middle of a set of places."""

    latitude: float
    longitude: float


def load_places() -> tuple[Place, ...]:
    """All contiguous postal codes with streets, by code. Cost: about a second; the package's own
    look-ups read everything each time, so it is asked once."""
    return tuple(
        sorted(
            Place(
                row["zip_code"],
                row["city"],
                row["state"],
                float(row["lat"]),
                float(row["long"]),
                row["timezone"],
            )
            for row in zipcodes.list_all()  # type: ignore[no-untyped-call]
            if row["active"]
            and row["zip_code_type"] == "STANDARD"
            and row["state"] not in OUTLYING
            and row["timezone"]
        )
    )


def by_city(places: Iterable[Place]) -> list[list[Place]]:
    """Places of each city, the city with most postal codes first: codes follow the people."""
    cities: dict[tuple[str, str], list[Place]] = defaultdict(list)
    for place in places:
        cities[place.city, place.region].append(place)
    return sorted(cities.values(), key=lambda city: (-len(city), city[0].region, city[0].city))


def by_prefix(places: Iterable[Place], length: int) -> dict[str, list[Place]]:
    """Places by the first digits of their postal code."""
    areas: dict[str, list[Place]] = defaultdict(list)
    for place in places:
        areas[place.postal_code[:length]].append(place)
    return dict(sorted(areas.items()))


def center(places: Sequence[Place]) -> Center:
    """Mean of the coordinates: good enough for distance bands hundreds of kilometers wide."""
    return Center(
        sum(place.latitude for place in places) / len(places),
        sum(place.longitude for place in places) / len(places),
    )


def kilometers(start: Place | Center, end: Place | Center) -> float:
    """Along the great circle."""
    return distance_m(start.latitude, start.longitude, end.latitude, end.longitude) / 1000
