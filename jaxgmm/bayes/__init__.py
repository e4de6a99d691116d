"""From a point estimate to a posterior: the NumPyro model, and MAP, variational, MCMC and Gibbs fits of it."""
