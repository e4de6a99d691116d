"""What a mixture answers about rows, as methods: densities, components, criteria, missing values, explanations."""

from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxgmm.model import answers
from jaxgmm.model.asking import Censored, Errors, ask, total
from jaxgmm.model.explaining import Explanation, explained
from jaxgmm.model.imputing import impute


class Answering:
    """What a `GMM` is asked about rows. How arguments are checked and rows are padded or sorted, `asking` knows."""

    def log_prob(
        self, x: Float[ArrayLike, "N D"], *, error_covariances: Errors = None, censored: Censored = None
    ) -> Float[Array, " N"]:
        """Log density of each row, in nats.

        Args:
            x: (N, D), array or frame; or one row (D,), which gives a scalar. NaN is a missing value, which is summed
                out; of traced rows it gives NaN, or any component.
            error_covariances: (N, D) variances or (N, D, D) covariances of the rows' errors of measurement, in squared units,
                which are added to the components' own; not inside jit, vmap or grad.
            censored: (N, D), -1 where x is an upper limit, 1 where a lower one, 0 where it was measured, as for `fit`: then the
                row's density has the probability of what lies beyond, given its values; not inside jit, vmap or grad.

        Raises:
            ValueError: other columns, infinite entries, rows without a value, error covariances or limits that can't be used.

        Example:
            >>> import jaxgmm as jg
            >>> gmm = jg.GMM([1.0], [[0.0, 0.0]], [1.0], "spherical")
            >>> float(gmm.log_prob([[0.0, 0.0]])[0])
            -1.837877...
        """
        return ask(self, "log_prob", answers.log_prob, x, error_covariances, censored)

    def responsibilities(
        self, x: Float[ArrayLike, "N D"], *, error_covariances: Errors = None, censored: Censored = None
    ) -> Float[Array, "N K"]:
        """p(component k given x_n); each row adds up to one. Arguments and errors as for `log_prob`."""
        return ask(self, "responsibilities", answers.responsibilities, x, error_covariances, censored)

    def predict(
        self, x: Float[ArrayLike, "N D"], *, error_covariances: Errors = None, censored: Censored = None
    ) -> Int[Array, " N"]:
        """The most probable component of each row. Arguments and errors as for `log_prob`."""
        return ask(self, "predict", answers.predict, x, error_covariances, censored)

    def log_likelihood(
        self,
        x: Float[ArrayLike, "N D"],
        sample_weight: Float[ArrayLike, " N"] | None = None,
        *,
        error_covariances: Errors = None,
        censored: Censored = None,
    ) -> Any:
        """Total log-likelihood of the rows, in nats: sum_n w_n log p(x_n).

        Args:
            x: (N, D), as for `log_prob`.
            sample_weight: (N,), finite, not negative; 1 each by default.
            error_covariances: as for `log_prob`.
            censored: as for `log_prob`.

        Returns:
            A float, or a traced scalar inside jit.

        Raises:
            ValueError: rows or weights that can't be used.
        """
        return total(self, "log_likelihood", x, sample_weight, error_covariances, censored)

    def aic(
        self,
        x: Float[ArrayLike, "N D"],
        sample_weight: Float[ArrayLike, " N"] | None = None,
        *,
        error_covariances: Errors = None,
        censored: Censored = None,
    ) -> Any:
        """Akaike's criterion, -2 log L + 2 p (Akaike 1974); smaller is better. Arguments and errors as for `log_likelihood`."""
        return total(self, "aic", x, sample_weight, error_covariances, censored)

    def bic(
        self,
        x: Float[ArrayLike, "N D"],
        sample_weight: Float[ArrayLike, " N"] | None = None,
        *,
        error_covariances: Errors = None,
        censored: Censored = None,
    ) -> Any:
        """Bayesian information criterion, -2 log L + p log N (Schwarz 1978); smaller is better, mclust's sign changed.

        N is the total weight of the rows. Arguments and errors as for `log_likelihood`.

        Example:
            >>> import jaxgmm as jg
            >>> gmm = jg.GMM([1.0], [[0.0]], [1.0], "spherical")
            >>> gmm.bic([[0.0], [0.0]])
            5.06204849...
        """
        return total(self, "bic", x, sample_weight, error_covariances, censored)

    def icl(
        self,
        x: Float[ArrayLike, "N D"],
        sample_weight: Float[ArrayLike, " N"] | None = None,
        *,
        error_covariances: Errors = None,
        censored: Censored = None,
    ) -> Any:
        """Integrated completed likelihood, BIC - 2 sum_n w_n log max_k r_nk (Biernacki, Celeux & Govaert 2000).

        Smaller is better; equals the negative of mclust's `icl`. Arguments and errors as for `log_likelihood`.
        """
        return total(self, "icl", x, sample_weight, error_covariances, censored)

    def impute(
        self,
        x: Float[ArrayLike, "N D"],
        *,
        key: Array | None = None,
        n_draws: int | None = None,
        error_covariances: Errors = None,
        censored: Censored = None,
    ) -> Array:
        """Rows whose missing values are filled in from what was seen of them, and limits replaced; values stay as they are.

        Without a key by their expectation, sum_k r_k E[x_missing | x_seen, k]: the best single guess, but with less spread than
        the values had. For what is computed from filled rows, draw some sets of them, and compute it from each (Rubin 1987).

        Args:
            x: (N, D), array or frame, or one row (D,); NaN is a missing value, and each row has one that isn't.
            key: a PRNG key, for draws.
            n_draws: M sets of rows, each missing value drawn given what was seen of its row.
            error_covariances: as for `log_prob`; what is filled in is without errors.
            censored: as for `log_prob`; what stands in a limit's place lies beyond it, but for errors.

        Returns:
            (N, D), columns as in `x`; with `n_draws` (M, N, D).

        Raises:
            TypeError: rows that are traced.
            ValueError: rows that `log_prob` refuses; one of `key` and `n_draws` without the other.

        Example:
            >>> import numpy as np, jaxgmm as jg
            >>> gmm = jg.GMM([1.0], [[0.0, 0.0]], [[[1.0, 0.8], [0.8, 1.0]]])
            >>> round(float(gmm.impute([[2.0, np.nan]])[0, 1]), 6)
            1.6
        """
        return impute(self, x, key, n_draws, error_covariances, censored)

    def explain(self, x: Float[ArrayLike, "N D"]) -> Explanation:
        """What each feature adds to how surprising rows are, and to the odds of their components: `jaxgmm.explain`.

        Args:
            x: (N, D), finite, array or frame; not inside jit, vmap or grad.

        Raises:
            TypeError, ValueError: other columns, NaN or infinite entries.

        Example:
            >>> import jaxgmm as jg
            >>> jg.GMM([1.0], [[0.0, 0.0]], [[1.0, 4.0]], "diag").explain([[3.0, 2.0]]).features.tolist()
            [[4.5, 0.5]]
        """
        return explained(self, x)
