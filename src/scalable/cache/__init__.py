"""Results that are kept across runs; works in any process."""
