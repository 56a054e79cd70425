"""Initializers: how new units start."""
