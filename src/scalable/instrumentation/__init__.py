"""Dask → facts: the plugins that live inside a cluster, and what ties a client to them."""
