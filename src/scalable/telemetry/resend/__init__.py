"""A recorded run that is sent later: to a collector, or into a file."""
