"""Delivery promises and stock reservations that never oversell."""

__version__ = "0.1.0"
