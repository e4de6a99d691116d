"""The telescoping sampler as a NumPyro kernel."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from jaxgmm.bayes.priors.richardson_green import RichardsonGreen
from jaxgmm.bayes.samplers.kernel import ChainKernel
from jaxgmm.counting.model import centred_data, component_prior, partition_prior_of
from jaxgmm.counting.partition import Data
from jaxgmm.counting.partition_prior import OfAlpha, OfK
from jaxgmm.counting.telescoping import Chain, Telescoping, start
from jaxgmm.model.prior import Prior
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.validation import check_count, check_rows


class TelescopingKernel(ChainKernel):
    """The sweep of `count_clusters` as a NumPyro kernel: `MCMC(TelescopingKernel(prior), ...).run(key, x)`.

    Its samples are `n_clusters`, `n_components`, `alpha`, `labels` (N,), `weights` (J,) in falling order, `log_likelihood` and
    `entropy`; and `rate` with `RichardsonGreen`. Chains start with all rows in one cluster, or from `init_params`: labels (N,),
    0..J-1, with a leading axis of chains if there are several. `count_clusters` starts them from fits that differ.

    Args:
        prior: of the components, a `Prior` of "full", "diag" or "spherical", or a `RichardsonGreen`.
        model, n_components, weights, alpha, max_components, n_moves: as for `count_clusters`.

    Raises:
        TypeError, ValueError: a prior or settings that can't be used; and at the start of a run, JAX's default precision: the
            sampler needs `jax.config.update("jax_enable_x64", True)`.

    Example:
        >>> import jax, jaxgmm as jg
        >>> from numpyro.infer import MCMC
        >>> x = jg.datasets.load_faithful().x
        >>> kernel = jg.TelescopingKernel(jg.Prior.default(x, 1), max_components=10)
        >>> mcmc = MCMC(kernel, num_warmup=50, num_samples=50, progress_bar=False)
        >>> with jax.enable_x64(True):
        ...     mcmc.run(jax.random.key(0), x)
        >>> mcmc.get_samples()["labels"].shape
        (50, 272)
    """

    def __init__(
        self,
        prior: Prior | RichardsonGreen,
        *,
        model: str = "mixture",
        n_components: OfK = None,
        weights: str | None = None,
        alpha: OfAlpha = None,
        max_components: int = 30,
        n_moves: int = 2,
    ) -> None:
        if not isinstance(prior, Prior | RichardsonGreen):
            raise UserTypeError(f"prior must be a Prior or RichardsonGreen, got {type(prior).__name__}: Prior.default(x, 1).")
        self._n_features = 1 if isinstance(prior, RichardsonGreen) else np.size(prior.mean)
        self._prior = component_prior(prior, None, np.empty((0, self._n_features)))
        most = check_count(max_components, "max_components")
        self._partition_prior = partition_prior_of(self._prior, model, n_components, weights, alpha, most)
        self._telescoping = Telescoping(check_count(n_moves, "n_moves", least=0))

    def _begin(self, keys: Array, init_params: ArrayLike | None, x: ArrayLike) -> Chain:
        if not jax.config.jax_enable_x64:
            raise UserError(
                "TelescopingKernel needs float64, but JAX is configured for float32, in which differences of evidences are "
                "rounding: call jax.config.update('jax_enable_x64', True) first, or use jaxgmm.count_clusters."
            )
        data = self._data(x)
        labels = self._labels(init_params, (len(keys), data.rows.shape[1]))
        return jax.jit(jax.vmap(start, in_axes=(0, 0, None)))(keys, labels, data)

    def _advance(self, x: ArrayLike) -> Callable[[Chain], Chain]:
        data = self._data(x)
        return lambda chain: self._telescoping.step(chain, data)

    def get_diagnostics_str(self, state: Chain) -> str:
        """What the progress bar says of `state`."""
        return f"{int(state.n_clusters)} clusters"

    def _data(self, x: ArrayLike) -> Data:
        rows = check_rows(x, "x", n_features=self._n_features)
        return centred_data(jnp.asarray(rows, jnp.float64), self._prior, self._partition_prior)

    def _labels(self, given: ArrayLike | None, shape: tuple[int, int]) -> np.ndarray:
        """Partitions to start from, (C, N), filled components first."""
        if given is None:
            return np.zeros(shape, int)
        labels, largest = np.atleast_2d(np.asarray(given)), self._partition_prior.largest
        if labels.shape != shape or labels.dtype.kind not in "iu" or labels.min() < 0:
            raise UserError(f"init_params must be labels, whole numbers from 0 on of shape {shape}, got {given!r}.")
        found = [np.unique(own, return_inverse=True) for own in labels]
        most = max(len(names) for names, _ in found)
        if most > largest:
            raise UserError(f"init_params has {most} clusters, but there are at most {largest} components: max_components.")
        return np.stack([own for _, own in found])
