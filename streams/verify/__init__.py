"""The judge: recomputes from the input topics what the pipeline has published.

It shares the definitions (registry files, contracts, catalogue) and the codec with the pipeline,
and no code that folds, merges or evaluates: SQL in DuckDB, over the whole log at once.
"""

from streams.verify.judge import verify
from streams.verify.report import Compared, Difference, Lag, Report

__all__ = ["Compared", "Difference", "Lag", "Report", "verify"]
