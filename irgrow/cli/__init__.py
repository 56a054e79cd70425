"""The command line, one file per verb."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from irgrow.cli.app import main as run

    run()


__all__ = ["main"]
