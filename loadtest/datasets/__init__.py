"""Converters from public data sets to folders that `promise-svc load` takes."""
