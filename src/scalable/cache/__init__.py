"""Results kept across runs, and what user code records: works in any process."""
