"""The recorder: pulls facts, makes signals of them, and routes these."""
