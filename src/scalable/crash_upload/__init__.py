"""Sends the logs of workers that died to an address of the user's choice; off by default."""
