"""What variational Bayes returns: q(weights, means, covariances), its evidence bound, and what it says about rows."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxgmm.bayes.priors.conjugate import Conjugate
from jaxgmm.bayes.variational.expectations import expect, log_predictive, scale_terms
from jaxgmm.bayes.variational.weight_priors import WEIGHT_PRIORS
from jaxgmm.covariance import get_family
from jaxgmm.data.observed import has_gaps
from jaxgmm.data.padding import first_rows, padded_rows
from jaxgmm.fitting.result import Restarts, ended
from jaxgmm.fitting.status import Status
from jaxgmm.model import random_scale, reading
from jaxgmm.model.density import log_joint
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior
from jaxgmm.model.reading import Numbers
from jaxgmm.tools import frames, precision
from jaxgmm.tools.blocks import map_rows, short_blocks
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.formatting import nats
from jaxgmm.tools.hints import OF_FITS, Hinting
from jaxgmm.tools.reading import Page, Readable
from jaxgmm.tools.validation import check_rows, floating, is_traced

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False, repr=False)
class VariationalFit(Readable, Hinting):
    """The factorised approximation q(z) q(weights) prod_k q(mu_k, Sigma_k) of a posterior, and the account of its fit.

    Under q, Sigma_k ~ InverseWishart(nu_k, Psi_k) and mu_k | Sigma_k ~ Normal(m_k, Sigma_k / kappa_k), in the family's form
    (see `Prior`). It is the nearest such distribution from inside: it keeps to one of the K! orders of the labels, and its
    intervals are too narrow where components overlap.

    Attributes:
        concentration: of q(weights): (K,), of a Dirichlet; (K, 2), of the Betas of the sticks.
        mean: m, (K, D), in the units of the data.
        mean_precision: kappa, (K,).
        degrees_of_freedom: nu, (K,); () for "tied".
        scale: Psi, shaped as the family's covariances; squared units.
        counts: (K,), expected weight of the rows of each component.
        elbo: lower bound of log p(x), all constants included, nats.
        status: how the best start ended.
        n_steps: updates of the best start.
        trace: (n_steps + 1,), the bound at the start and after each update.
        restarts: all starts; `objective` is the bound, `log_likelihood` NaN, since q isn't a mixture.
        prior: of the parameters.
        weights: "dirichlet" or "stick-breaking".
        family: covariance family.
        fingerprint: of the rows, weights and errors of measurement.
        feature_names: the columns of the frame that was fitted, or None.
    """

    concentration: Float[Array, "..."]
    mean: Float[Array, "K D"]
    mean_precision: Float[Array, " K"]
    degrees_of_freedom: Float[Array, "*K"]
    scale: Float[Array, "..."]
    counts: Float[Array, " K"]
    elbo: float
    status: Status
    n_steps: int
    trace: np.ndarray
    restarts: Restarts
    prior: Prior
    weights: str
    family: str
    fingerprint: str
    feature_names: tuple[str, ...] | None = None

    _elsewhere = OF_FITS | {
        "weights_": "expected_gmm().weights",
        "means": "mean, or expected_gmm().means",
        "means_": "mean, or expected_gmm().means",
        "covariances": "expected_gmm().covariances",
        "covariances_": "expected_gmm().covariances",
        "lower_bound_": "elbo",
        "gmm": "expected_gmm()",
        "sample": "expected_gmm().sample",
    }

    def _as_gmm(self) -> GMM:
        return self.expected_gmm()

    @property
    def converged(self) -> bool:
        """True only for `Status.converged`."""
        return self.status is Status.converged

    @property
    def n_components(self) -> int:
        """K."""
        return self.mean.shape[0]

    @property
    def log_evidence(self) -> float:
        """Estimate of log p(x), to compare K by: the bound, plus log K! where labels are symmetric (Bishop 2006, sec. 10.2.4).

        q describes one of the orders in which labels can be given. Where these don't overlap, the mixture of all of them has
        the higher bound, elbo + log(their number), still below log p(x). They don't where every component has its own rows;
        where components overlap or coincide this is too much, by log K! at most. Components with less than one row's weight
        look alike, so orders among them aren't counted. Sticks have an order: nothing is added.
        """
        relabellings = WEIGHT_PRIORS[self.weights].log_relabellings(self.prior.concentration, np.asarray(self.counts))
        return self.elbo + relabellings

    def _page(self) -> Page:
        counts, shape = np.asarray(self.counts, float), self.mean.shape
        expected = Numbers(
            counts / counts.sum(), np.asarray(self.mean, float), self._covariances(), self.family, self.feature_names
        )  # fmt: skip
        title = (
            f"VariationalFit: {reading.what(self.family, *shape)}; {self.weights} weights; {ended(self.status, self.n_steps)}"
        )
        return Page(
            title,
            (
                "" if self.converged else self.status.meaning,
                f"evidence bound {nats(self.elbo)}, log evidence {nats(self.log_evidence)}",
                self.restarts.in_words,
            ),
            reading.table(expected)._replace(columns=["share of rows", *expected.names]),
            lambda: reading.picture(expected),
        )

    def _covariances(self) -> np.ndarray:
        """E[Sigma_k], in the family's shape; NaN where it doesn't exist."""
        spare = np.asarray(self.degrees_of_freedom, float) - self._lost
        scale = np.asarray(self.scale, float)
        return scale / np.where(spare > 0, spare, np.nan).reshape(spare.shape + (1,) * (scale.ndim - spare.ndim))

    @property
    def _lost(self) -> int:
        """Degrees of freedom up to which a covariance has no mean."""
        return get_family(self.family).structure.block_size(self.mean.shape[1]) + 1

    def expected_gmm(self) -> GMM:
        """The mixture of the posterior means E[weights], E[mu_k], E[Sigma_k].

        Weights of sticks are divided by their sum: the first K sticks' share. `log_prob` has the heavier tails that not
        knowing the parameters gives; this mixture's density hasn't.

        Raises:
            ValueError: degrees of freedom too few for E[Sigma_k] to exist.
        """
        lost = self._lost
        if not (np.asarray(self.degrees_of_freedom) > lost).all():
            raise UserError(
                f"degrees_of_freedom {np.asarray(self.degrees_of_freedom).tolist()} must be more than {lost} for the mean of a "
                f"covariance to exist: use a prior with degrees_of_freedom above {lost}, or fewer components."
            )
        dtype = precision.parameter_dtype(self.mean)
        with precision.scope(np.dtype(np.float64)):
            weights = np.asarray(WEIGHT_PRIORS[self.weights].mean(jnp.asarray(self.concentration)))
        gmm = GMM.unchecked(weights / weights.sum(), self.mean, self._covariances(), self.family, self.feature_names)
        return precision.as_parameters(gmm, dtype)

    def log_prob(self, x: Float[ArrayLike, "N D"]) -> Float[Array, " N"]:
        """Log predictive density of each row: a mixture of Student t densities, the parameters integrated out under q.

        p(x) = sum_k E[pi_k] t_k(x), t_k with nu_k + 1 - D degrees of freedom for "full" and "tied", nu_k for "spherical", and a
        product of such over the features for "diag" (Bishop 2006, eq. 10.81). It integrates to one: with sticks, what the
        first K leave goes to a component from the prior. Each row is taken for a single new one.

        Args:
            x: (N, D), finite, array or frame; or one row (D,), which gives a scalar.

        Raises:
            ValueError: other columns, NaN or infinite entries.
        """
        return self._ask(_log_prob, x)

    def responsibilities(self, x: Float[ArrayLike, "N D"]) -> Float[Array, "N K"]:
        """q(z_n = k): proportional to exp E[log pi_k + log Normal(x_n | mu_k, Sigma_k)]; each row adds up to one.

        Arguments and errors as for `log_prob`.
        """
        return self._ask(_responsibilities, x)

    def predict(self, x: Float[ArrayLike, "N D"]) -> Int[Array, " N"]:
        """The most probable component of each row by `responsibilities`. Arguments and errors as for `log_prob`."""
        return self._ask(_predict, x)

    def _ask(self, question: Callable, x: object) -> Any:
        x = floating(frames.ordered(x, self.feature_names), "x")
        if x.shape == (self.mean.shape[1],):
            return self._ask(question, x[None])[0]
        x = check_rows(x, "x", n_features=self.mean.shape[1], missing=True)
        if not is_traced(x) and has_gaps(x):
            raise UserError(
                "x has missing values, which predictive densities don't take: ask the mixture of expectations, "
                "fit.expected_gmm(), or fill them in, fit.expected_gmm().impute(x)."
            )
        q = Conjugate(self.concentration, self.mean, self.mean_precision, self.degrees_of_freedom, self.scale)
        dtype = precision.compute_dtype(x, q)
        out = precision.answer_dtype(x, dtype)
        with precision.scope(dtype):
            q, prior = precision.cast((q, self.prior), dtype)
            rows, n_rows = jnp.asarray(padded_rows(x)), np.int32(x.shape[0])
            answers = first_rows(question(q, prior, rows, n_rows, self.weights, self.family, dtype, out), x.shape[0])
        return precision.keep(answers)


def _by_rows(f: Callable[[Array], Array], x: Array, n_rows: Array, dtype: np.dtype) -> Array:
    return map_rows(lambda rows: f(rows.astype(dtype)), x, short_blocks(_ROWS_AT_ONCE, x.shape[0]), n_rows)


@functools.partial(jax.jit, static_argnums=(4, 5, 6, 7))
def _log_prob(q, prior, x, n_rows, weights, family, dtype, out):
    mean = WEIGHT_PRIORS[weights].mean(q.concentration)
    left = 1 - mean.sum()
    if weights == "stick-breaking":
        mean, q = jnp.append(mean, jnp.maximum(left, 0)), _with_prior_component(q, prior, family)
    log_mean = jnp.log(mean)
    return _by_rows(lambda rows: logsumexp(log_mean + log_predictive(q, rows, family), axis=-1), x, n_rows, dtype).astype(out)


def _with_prior_component(q: Conjugate, prior: Prior, family: str) -> Conjugate:
    """One component more, of which q knows only the prior, given E[s] if its scale is random."""
    if prior.least_scale is not None:
        terms = scale_terms(q, prior, family, jnp.ones(len(q.mean), bool))
        prior = random_scale.given(prior, random_scale.expected(prior, terms))
    nu, scale = q.degrees_of_freedom, q.scale
    if get_family(family).per_component:
        nu, scale = jnp.append(nu, prior.degrees_of_freedom), jnp.concatenate([scale, prior.scale[None]])
    mean, mean_precision = jnp.concatenate([q.mean, prior.mean[None]]), jnp.append(q.mean_precision, prior.mean_precision)
    return Conjugate(q.concentration, mean, mean_precision, nu, scale)


def _joint(q, prior, weights, family):
    components, _ = expect(q, prior, WEIGHT_PRIORS[weights], family)
    return lambda rows: log_joint(components, rows)


@functools.partial(jax.jit, static_argnums=(4, 5, 6, 7))
def _responsibilities(q, prior, x, n_rows, weights, family, dtype, out):
    joint = _joint(q, prior, weights, family)
    return _by_rows(lambda rows: jax.nn.softmax(joint(rows), axis=-1), x, n_rows, dtype).astype(out)


@functools.partial(jax.jit, static_argnums=(4, 5, 6, 7))
def _predict(q, prior, x, n_rows, weights, family, dtype, out):
    joint = _joint(q, prior, weights, family)
    return _by_rows(lambda rows: jnp.argmax(joint(rows), axis=-1).astype(jnp.int32), x, n_rows, dtype)
