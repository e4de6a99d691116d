"""What a prior owes the samplers (`base`), and the two that there are; importing them registers their answers."""

from jaxgmm.bayes.priors import conjugate, richardson_green

__all__ = ["conjugate", "richardson_green"]
