"""Saliencies: which units to keep."""
