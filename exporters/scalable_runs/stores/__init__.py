"""Places where the bytes of runs live."""
