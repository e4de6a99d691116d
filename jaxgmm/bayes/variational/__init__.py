"""Variational Bayes by coordinate ascent on the exact bound."""
