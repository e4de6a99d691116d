"""The Gibbs sweep as a kernel for NumPyro's `MCMC`."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from jaxgmm.bayes.priors.richardson_green import RichardsonGreen
from jaxgmm.bayes.samplers.gibbs import GibbsChain, start_chains
from jaxgmm.bayes.samplers.kernel import ChainKernel
from jaxgmm.covariance import check_unrestricted
from jaxgmm.fitting.result import Fit
from jaxgmm.model.coercion import Mixture, about_rows
from jaxgmm.model.holding import FREE
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior
from jaxgmm.tools import precision
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.validation import check_rows, check_single


class GibbsKernel(ChainKernel):
    """The Gibbs sweep as a NumPyro kernel: `MCMC(GibbsKernel(start, prior), ...).run(key, x)`.

    Its samples are the sites of `numpyro_model`: `weights`, `means`, `covariances`, and `rate` with `RichardsonGreen`.
    `extra_fields=("lp",)` keeps the log joint density too, but for the prior's constant. It computes in JAX's configured
    precision; `jaxgmm.posterior` computes in float64 on CPUs.

    Args:
        start: one mixture, every weight positive; what was held in a Fit stays as it is.
        prior: a `Prior` or a `RichardsonGreen` that fits it.

    Raises:
        TypeError, ValueError: a start or a prior that can't be used.

    Example:
        >>> import jax, jaxgmm as jg
        >>> from numpyro.infer import MCMC
        >>> gmm = jg.GMM([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> prior = jg.Prior(1.0, [2.0], 0.1, 3.0, 1.0, "spherical")
        >>> mcmc = MCMC(jg.GibbsKernel(gmm, prior), num_warmup=10, num_samples=50, progress_bar=False)
        >>> mcmc.run(jax.random.key(1), [[0.0], [0.2], [4.0]])
        >>> mcmc.get_samples()["means"].shape
        (50, 2, 1)
    """

    def __init__(self, start: Mixture, prior: Any) -> None:
        if not isinstance(prior, Prior | RichardsonGreen):
            raise UserTypeError(
                f"prior must be a Prior or RichardsonGreen, got {type(prior).__name__}: fit.prior, of a MAP fit."
            )
        self._held = start.fixed if isinstance(start, Fit) else FREE
        start = about_rows(start, "GibbsKernel")
        check_single(start.weights, "GibbsKernel(g, prior)")
        check_unrestricted(start.family, "GibbsKernel")
        prior.check_fits(start)
        if not (np.asarray(start.weights) > 0).all():
            raise UserError(f"start has weights {np.asarray(start.weights).tolist()}: drop components of weight 0.")
        self._start, self._prior = start, prior

    def _begin(self, keys: Array, init_params: ArrayLike | None, x: ArrayLike) -> GibbsChain:
        if init_params is not None:
            raise UserError("init_params isn't used: GibbsKernel(start, prior) starts from the mixture `start`.")
        rows, gmm, prior = self._cast(x)
        return start_chains(keys, gmm, rows, prior)

    def _advance(self, x: ArrayLike) -> Callable[[GibbsChain], GibbsChain]:
        rows, _, prior = self._cast(x)
        return lambda chain: chain.advance(rows, prior, held=self._held)

    def get_diagnostics_str(self, state: GibbsChain) -> str:
        """What the progress bar says of `state`."""
        return f"log joint {float(state.lp):.2f}"

    def _cast(self, x: ArrayLike) -> tuple[Array, GMM, Any]:
        rows = check_rows(x, "x", n_features=self._start.n_features, feature_names=self._start.feature_names)
        dtype = precision.result_dtype(rows)
        return jnp.asarray(rows, dtype), precision.cast(self._start, dtype), precision.cast(self._prior, dtype)
