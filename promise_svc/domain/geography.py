"""Distances on the sphere, and the index that finds places within a radius."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable

EARTH_RADIUS_M = 6_371_008.8
"""Mean radius (IUGG 1980); the sphere is within 0.6 % of the ellipsoid."""

_SLACK_DEGREES = 1e-6
"""Widens the latitude band against rounding; about 11 cm."""


def distance_m(
    from_latitude: float, from_longitude: float, to_latitude: float, to_longitude: float
) -> float:
    """Great-circle distance in meters (haversine). Longitudes may differ by any whole turn."""
    phi_a, phi_b = math.radians(from_latitude), math.radians(to_latitude)
    across = math.sin((phi_b - phi_a) / 2)
    along = math.sin(math.radians(to_longitude - from_longitude) / 2)
    chord = across * across + math.cos(phi_a) * math.cos(phi_b) * (along * along)
    return 2 * EARTH_RADIUS_M * math.asin(min(1.0, math.sqrt(chord)))


def distances_m(
    places: Iterable[tuple[float, float]], to_latitude: float, to_longitude: float
) -> list[float]:
    """``distance_m`` from each of ``places`` (latitude, longitude), in half the time."""
    radians, sin, cos, asin, sqrt = math.radians, math.sin, math.cos, math.asin, math.sqrt
    phi_b = radians(to_latitude)
    cos_b = cos(phi_b)
    distances = []
    for latitude, longitude in places:
        phi_a = radians(latitude)
        across = sin((phi_b - phi_a) / 2)
        along = sin(radians(to_longitude - longitude) / 2)
        # Products, not powers: the twin must come to the same last bit.
        chord = across * across + cos(phi_a) * cos_b * (along * along)
        distances.append(2 * EARTH_RADIUS_M * asin(min(1.0, sqrt(chord))))
    return distances


class LatitudeIndex:
    """Places sorted by latitude. A query scans the band a radius can reach and measures each.

    The band ignores longitude, so neither the antimeridian nor the poles need a special case.
    Cost: O(places in the band).
    """

    __slots__ = ("_latitudes", "_places")

    def __init__(self, places: Iterable[tuple[float, float, str]]) -> None:
        """``places`` are (latitude, longitude, id) in degrees."""
        self._places = sorted(places)
        self._latitudes = [place[0] for place in self._places]

    def within(self, latitude: float, longitude: float, radius_m: float) -> list[tuple[float, str]]:
        """(distance in meters, id) of places at most ``radius_m`` away, nearest first, then by
        id."""
        reach = math.degrees(radius_m / EARTH_RADIUS_M) + _SLACK_DEGREES
        start = bisect_left(self._latitudes, latitude - reach)
        stop = bisect_right(self._latitudes, latitude + reach)
        measured = (
            (distance_m(latitude, longitude, place[0], place[1]), place[2])
            for place in self._places[start:stop]
        )
        return sorted(entry for entry in measured if entry[0] <= radius_m)
