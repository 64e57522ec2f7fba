"""Compiled twins of the specifications in ``promise_svc.domain``; entered through hotpath only."""
