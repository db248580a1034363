"""Manifest-driven use: what is run and where, and everything recorded without a further line."""
