"""Contracts of Andon: what a record may hold, how it becomes bytes, and which topic carries it."""
