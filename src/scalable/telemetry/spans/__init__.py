"""Which spans are sent, and in which order: the span budget and what it knows of each trace."""
