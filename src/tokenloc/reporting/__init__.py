"""Drawings of localizations, charts, and the HTML report."""
