"""Prints the tables of causes for docs/diagnose.md: ``python -m scalable.causes``."""

from scalable.causes import table

print(table(), end="")
