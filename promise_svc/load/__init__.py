"""Loads a folder of files into a running service."""
