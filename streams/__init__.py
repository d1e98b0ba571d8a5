"""Kafka and Faust: decode, call, keep state, forward."""

import os

# Polars gives memory back to the system half a second after its last use: between two flushes,
# so that each asks for all of it again, page by page. It looks at this once, when it is imported.
os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:10000")
