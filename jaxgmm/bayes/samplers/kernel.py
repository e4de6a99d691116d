"""What our chains have in common as kernels for NumPyro's `MCMC`."""

from collections.abc import Callable, Mapping, Sequence

import jax
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree
from numpyro.infer.mcmc import MCMCKernel
from numpyro.util import is_prng_key


class ChainKernel(MCMCKernel):
    """One chain or, for an array of keys, several side by side; a chain has `rng_key`, and `sites`, which are the samples."""

    model = None  # ArviZ asks for it: there is no NumPyro model to trace
    sample_field = "sites"

    def init(
        self,
        rng_key: Array,
        num_warmup: int,
        init_params: ArrayLike | None,
        model_args: Sequence[ArrayLike],
        model_kwargs: Mapping[str, ArrayLike],
    ) -> PyTree[Array]:
        """The chain, or several for several keys, before the first sweep.

        Args:
            rng_key: one PRNG key, or an array of them.
            num_warmup: not used: there is nothing to adapt.
            init_params: where to start, of kernels that take it; else None.
            model_args: the rows `x` (N, D), as `MCMC.run` was given them,
            model_kwargs: or here, by name.

        Raises:
            ValueError: `init_params` or rows that can't be used.
        """
        single = is_prng_key(rng_key)
        chains = self._begin(rng_key[None] if single else rng_key, init_params, *model_args, **model_kwargs)
        return jax.tree.map(lambda leaf: leaf[0], chains) if single else chains

    def sample(
        self, state: PyTree[Array], model_args: Sequence[ArrayLike], model_kwargs: Mapping[str, ArrayLike]
    ) -> PyTree[Array]:
        """The chain, or several, a sweep later; the rows as for `init`."""
        step = self._advance(*model_args, **model_kwargs)
        return step(state) if is_prng_key(state.rng_key) else jax.vmap(step)(state)

    def _begin(self, keys: Array, init_params: ArrayLike | None, x: ArrayLike) -> PyTree[Array]:
        """A chain for each key."""
        raise NotImplementedError

    def _advance(self, x: ArrayLike) -> Callable[[PyTree[Array]], PyTree[Array]]:
        """What takes one chain a sweep further."""
        raise NotImplementedError
