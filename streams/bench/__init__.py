"""The benchmark: permanent scenarios, a seeded load, a worker seen from outside, and a history.

Nothing here is used by a worker. What is measured is what a user runs: `andon worker` as a process
of its own, on a real broker, judged by `andon verify` after each run.
"""
