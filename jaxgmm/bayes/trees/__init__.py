"""Draws as ArviZ trees, and what they say."""
