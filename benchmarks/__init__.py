"""Benchmarks that decide: what the promise "leave it on in production" is measured by.

``python -m benchmarks`` measures everything, prints a table and exits non-zero where a budget is
missed; ``make bench`` and ``make bench-quick`` run it in the project's own environment.
"""
