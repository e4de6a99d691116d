"""Draws from the posterior: chains and approximations."""
