"""What a prior owes the samplers, and the two that there are."""
