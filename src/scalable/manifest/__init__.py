"""The manifest: read, checked, planned. Starts nothing and imports no Dask."""
