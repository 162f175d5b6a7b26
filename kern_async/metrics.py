"""`RunMetrics` under the path where the reference's users look for it."""

from kern_async.run.base import RunMetrics

__all__ = ["RunMetrics"]
