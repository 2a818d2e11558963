"""`python -m armillary` is the command `armillary`."""

from __future__ import annotations

import sys

from armillary.app.cli import main

if __name__ == "__main__":
    sys.exit(main())
