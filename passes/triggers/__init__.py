"""Triggers: when to grow, and how many units."""
