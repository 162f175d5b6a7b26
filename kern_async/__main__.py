"""`python -m kern_async`: the command `kern-async`."""

from __future__ import annotations

import sys

from kern_async.cli import main

if __name__ == "__main__":
    sys.exit(main())
