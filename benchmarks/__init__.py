"""What everything costs, beside the bare thing and the peers: see `__main__.py`."""
