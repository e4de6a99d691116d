"""The posterior as a density: NumPyro's model, coordinates, whitening."""
