"""Moves between partitions, each exact by itself."""
