"""The workload behind `scalable demo`: flight delays on a cluster that loses a worker."""
