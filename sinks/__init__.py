"""Adapters to the outside; import schemas only."""
