"""`python -m streams.cli` is `andon`, also where the entry point is not installed."""

from streams.cli import main

main()
