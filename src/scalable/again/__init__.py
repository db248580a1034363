"""Running it again: results and failures that are kept, `scalable retry`, `scalable replay`."""
