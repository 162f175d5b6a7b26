"""Processes that are what a user starts: nobody measures coverage in them.

To measure it would cost each 0.7 s of processor time, more than half of what it takes to start; and what they run
has tests in which it is measured.
"""

from __future__ import annotations

import os


def environment(**more: str) -> dict[str, str]:
    """This process's environment, without coverage's own variables, and with these."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")} | more
