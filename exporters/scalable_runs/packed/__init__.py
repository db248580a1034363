"""Runs as one file each: a `.tar.zst` that is read in place."""
