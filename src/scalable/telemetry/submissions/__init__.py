"""Submissions: calls of the client that send graphs, and their spans."""
