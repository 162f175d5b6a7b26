"""What the engine logs, see `kern_async.observe`."""

from kern_async.observe import log, wanted

__all__ = ["log", "wanted"]
