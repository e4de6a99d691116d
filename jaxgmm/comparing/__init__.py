"""Which model: families and numbers of components compared, components merged into clusters."""
