"""`python -m irgrow`: the command line."""

from __future__ import annotations

from irgrow.cli import main

if __name__ == "__main__":
    main()
