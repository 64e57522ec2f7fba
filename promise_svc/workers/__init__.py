"""Loops with jitter, back-off and a stop event; each calls one use case."""
