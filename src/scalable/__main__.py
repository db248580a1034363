"""`python -m scalable`: the `scalable` command where its script is not on the path."""

from scalable.cli import main

main()
