"""What to write instead of an unknown word."""

from scalable_runs.hints import suggestion

__all__ = ["suggestion"]
