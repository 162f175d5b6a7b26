"""Runs over HTTP, beside the reference's server: see `__main__.py`."""
