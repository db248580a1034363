"""Why workers died, and the logs that they left."""
