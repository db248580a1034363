"""Copies of runs in a place of objects: what is brought there, and how it is read there."""
