"""Analyses: they read a network, they never write."""
