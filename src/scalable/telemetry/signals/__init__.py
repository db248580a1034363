"""How spans, log records and metric points are made, also spans that represent others."""
