"""`python -m worldflow` is the command `worldflow`."""

from __future__ import annotations

import sys

from worldflow.cli import main

if __name__ == "__main__":
    sys.exit(main())
