"""Rewrites: one file per pass."""
