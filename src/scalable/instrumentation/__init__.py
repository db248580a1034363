"""Dask → facts: the plugins that live inside a cluster, and what ties a client to them."""

from scalable.common.otel_environment import propagate_module

# Before a module of this package imports OpenTelemetry, which a wrong variable would disturb.
propagate_module()
