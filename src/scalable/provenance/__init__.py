"""A run in the formats of others: RO-Crate, W3C PROV and OpenLineage."""
