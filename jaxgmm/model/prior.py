"""`Prior`: Dirichlet weights and normal-inverse-Wishart components, as density and as pseudo-data."""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, xlogy
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from jaxgmm.covariance import get_family
from jaxgmm.data.moments import Moments, column_moments, rows_of_frequencies
from jaxgmm.model import default_prior, random_scale
from jaxgmm.model.coercion import Mixture, as_gmm
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior_checks import check_shapes, check_values, ranks_of
from jaxgmm.tools import precision
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.pytree import pytree
from jaxgmm.tools.reading import Page, Readable, of_arrays
from jaxgmm.tools.types import Numbers
from jaxgmm.tools.validation import check_count, check_rows, check_weights, floating, is_traced

if TYPE_CHECKING:
    from jaxgmm.covariance import Factor


@pytree(static=("family",))
@dataclass(frozen=True, eq=False, repr=False)
class Prior(Readable):
    """The conjugate prior of a mixture: pi ~ Dirichlet(alpha), Sigma_k ~ InverseWishart(nu0, Psi0), mu_k | Sigma_k ~
    Normal(m0, Sigma_k / kappa0).

    The Dirichlet keeps weights off zero (alpha > 1); the inverse-Wishart is what keeps covariances from going singular.
    "diag" has InverseGamma(nu0 / 2, Psi0_d / 2) for each variance, "spherical" InverseGamma(nu0 / 2, psi0 / 2); "tied",
    "EEI" and "EII" have it once for all components. Families between these (mclust's VEI ... EVV) have the density of "full" or
    "diag", restricted to them: its constant isn't known, and left out.
    With `least_scale`, how small covariances are is left to the data: a random number s, one for all components, multiplies
    Psi0 and kappa0, log s uniform between log least_scale and 0, and is summed out of the density (`model.random_scale`).

    Each component may have numbers of its own, by a leading axis (K,): a known line beside a broad background. Then components
    aren't exchangeable: `fit` looks for the order that the prior likes best, and `relabel` keeps apart whose priors differ.

    Args:
        concentration: alpha, () or (K,), at least 1 for a mode to exist.
        mean: m0, (D,) or (K, D), in the units of the data.
        mean_precision: kappa0 > 0, () or (K,): how many rows the prior mean is worth.
        degrees_of_freedom: nu0 > D - 1 where covariances are matrices, > 0 otherwise, (); (K,) where components share nothing
            of their covariances.
        scale: Psi0, squared units: (D, D) where covariances are matrices, (D,) where they are variances of features, () where
            they are one of a component; with a leading K as degrees_of_freedom.
        family: covariance family.
        least_scale: least value of s, in (0, 1], beside which only alpha may differ; None: s = 1, all is as given.

    Raises:
        TypeError: not real numbers.
        ValueError: shapes that don't fit, or values outside their range; names the argument.

    Example:
        >>> import jaxgmm as jg
        >>> prior = jg.Prior.default(jg.datasets.load_faithful().x, n_components=2)
        >>> float(prior.degrees_of_freedom)
        4.0

        A line at 0 of sd 0.1, as sure as of 1000 rows, on a background of which little is known:

        >>> line = jg.Prior(1.0, [[0.0], [5.0]], [1000.0, 0.01], [1000.0, 3.0], [10.0, 30.0], "spherical")
        >>> line.by_component
        ('mean', 'mean_precision', 'degrees_of_freedom', 'scale')
    """

    concentration: Float[Array, "*K"]
    mean: Float[Array, "*K D"]
    mean_precision: Float[Array, "*K"]
    degrees_of_freedom: Float[Array, "*K"]
    scale: Float[Array, "..."]
    family: str = "full"
    least_scale: Float[Array, ""] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "family", get_family(self.family).name)
        for name in self.fields:
            object.__setattr__(self, name, floating(getattr(self, name), name))
        fields = {name: getattr(self, name) for name in self.fields}
        check_shapes(fields, self.family)
        if not is_traced(fields):
            check_values({name: np.asarray(value) for name, value in fields.items()}, self.family)

    def _page(self) -> Page:
        return of_arrays(f"Prior: {self.family}", {name: getattr(self, name) for name in self.fields})

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the numbers that it has."""
        return _FIELDS if self.least_scale is None else (*_FIELDS, "least_scale")

    @property
    def by_component(self) -> tuple[str, ...]:
        """Names of the numbers that have an axis of components."""
        ranks = ranks_of(np.shape(self.mean)[-1], self.family)
        return tuple(name for name in _FIELDS if np.ndim(getattr(self, name)) > ranks[name])

    @classmethod
    def default(
        cls,
        x: Float[ArrayLike, "N D"],
        n_components: int,
        family: str = "full",
        *,
        sample_weight: ArrayLike | None = None,
    ) -> "Prior":
        """The prior that `fit` and all others have unless told otherwise: units never matter, and how small components are is
        left to the data.

        alpha = 1 (uniform, so the weights' mode is the ML one), m0 = column means, nu0 = D + 2; and with a random scale s,
        Psi0 = nu0 diag(column variances) / K^(2/D) ("spherical": their mean) and kappa0 = 0.1 nu0 / K^(2/D), so that the
        means have about the sample's spread whatever s is. The least s belongs to sds of the columns' steps, the resolution
        at which values were written down; its floor is 1e-8, sds of a ten-thousandth of the columns'. Where a column doesn't
        vary, or columns are collinear (for "full" and "tied"), s would be theirs alone: it is 1, and the rest as in
        `fraley_raftery`. (After the random scale of Richardson & Green 1997.)

        Args:
            x: (N, D).
            n_components: K.
            family: covariance family.
            sample_weight: (N,), default 1; weights that add up to 1 are frequencies, of as many rows as have some.

        Raises:
            ValueError, TypeError: as `jaxgmm.fit`; rows that JAX traces.
        """
        return cls.named("default", x, n_components, family, sample_weight=sample_weight)

    @classmethod
    def fraley_raftery(
        cls,
        x: Float[ArrayLike, "N D"],
        n_components: int,
        family: str = "full",
        *,
        sample_weight: ArrayLike | None = None,
    ) -> "Prior":
        """The prior of Fraley & Raftery (2007, section 3.2), mclust's `priorControl()`: the sample's covariance is the scale.

        alpha = 1, m0 = column means, kappa0 = 0.01, nu0 = D + 2, Psi0 = sample covariance / K^(2/D): its diagonal for "diag",
        the mean of its diagonal for "spherical" (they take one isotropic scale for both). A column that doesn't vary counts as
        having an sd of 0.1 % of its size; collinear columns get a ridge of 1e-6 of their variances.

        That scale is the sample's: components much narrower than it are smeared, and so is what stands beside an outlier.

        Args:
            x: (N, D).
            n_components: K.
            family: covariance family.
            sample_weight: as for `default`.

        Raises:
            ValueError, TypeError: as `jaxgmm.fit`; rows that JAX traces.
        """
        return cls.named("fraley-raftery", x, n_components, family, sample_weight=sample_weight)

    @classmethod
    def named(
        cls,
        name: str,
        x: Float[ArrayLike, "N D"],
        n_components: int,
        family: str = "full",
        *,
        sample_weight: ArrayLike | None = None,
    ) -> "Prior":
        """The prior that "default" or "fraley-raftery" names, of these rows; arguments and errors as for `default`."""
        if is_traced(x, sample_weight):
            raise UserTypeError("Prior.default looks at rows on the host: call it before jit, vmap or grad, and pass it in.")
        default_prior.check_name(name)
        x = check_rows(x, "x")
        n_components = check_count(n_components, "n_components")
        weight = check_weights(sample_weight, x.shape[0])
        dense = get_family(family).structure.dense
        dtype = precision.compute_dtype(x)
        with precision.scope(dtype):
            rows: Any = np.ones(x.shape[0], dtype) if weight is None else np.asarray(weight)
            if weight is not None:
                rows = rows * rows_of_frequencies(float(rows.sum()), int(np.count_nonzero(rows)))
            moments = column_moments(x, rows, dense, dtype)
        return cls.of_moments(name, moments, n_components, family)

    @classmethod
    def of_moments(cls, name: str, moments: Moments, n_components: int, family: str) -> "Prior":
        """The prior of data that are known by their moments, whose scatter is a matrix if the family's structure is dense.

        Raises:
            ValueError: no prior or family that is called so.
        """
        default_prior.check_name(name)
        kind = get_family(family)
        return cls(**default_prior.NAMES[name](moments, n_components, kind), family=kind.name)

    def log_prob(self, gmm: Mixture) -> Float[Array, ""]:
        """Log density of a mixture's parameters, with respect to (weights, means, covariances) themselves, in nats.

        Of VEI, EVI, VEE, EVE, VVE, EEV, VEV and EVV up to a constant.

        Args:
            gmm: the mixture; components of weight 0 take no part.

        Raises:
            ValueError: a mixture of another family or dimension.
        """
        gmm = as_gmm(gmm)
        self.check_fits(gmm)
        dtype = precision.compute_dtype(gmm.means, gmm, self)
        out = precision.answer_dtype(gmm.means, dtype)
        with precision.scope(dtype):
            value = _log_prob(self, gmm, dtype, out)
        return precision.keep(value)

    def check_fits(self, gmm: GMM) -> None:
        """Raises ValueError where the prior is for another family or number of features or components than `gmm`."""
        if self.family != gmm.family:
            raise UserError(
                f"prior is for family {self.family!r}, the mixture is {gmm.family!r}: "
                f"Prior.default(x, n_components, {gmm.family!r})."
            )
        if np.shape(self.mean)[-1:] != (gmm.n_features,):
            raise UserError(f"prior.mean has shape {np.shape(self.mean)}, but the mixture has {gmm.n_features} features.")
        self.check_n_components(gmm.n_components)

    def check_n_components(self, n_components: int) -> None:
        """Raises ValueError where numbers are those of another number of components."""
        for name in self.by_component:
            shape = np.shape(getattr(self, name))
            if shape[0] != n_components:
                raise UserError(
                    f"prior.{name} has shape {shape}; one for all, {shape[1:]}, or one for each of the {n_components} "
                    "components is needed."
                )


_FIELDS = ("concentration", "mean", "mean_precision", "degrees_of_freedom", "scale")


@functools.partial(jax.jit, static_argnums=(2, 3))
def _log_prob(prior, gmm, dtype, out):
    prior, gmm = precision.cast((prior, gmm), dtype)
    factor = get_family(gmm.family).factor(gmm.covariances, gmm.n_features)
    active = gmm.weights > 0
    return (log_kernel(prior, gmm, factor, active) + log_normaliser(prior, active, jnp, gammaln)).astype(out)


def log_kernel(prior: Prior, gmm: GMM, factor: "Factor", active: Bool[Array, " K"]) -> Float[Array, ""]:
    """`Prior.log_prob` of the active components up to `log_normaliser`, for a mixture that is factored already."""
    return log_kernel_and_scale(prior, gmm, factor, active)[0]


def log_kernel_and_scale(
    prior: Prior, gmm: GMM, factor: "Factor", active: Bool[Array, " K"]
) -> tuple[Float[Array, ""], Float[Array, ""] | None]:
    """`log_kernel`, and E[s | mixture], which the same sum over values of s gives; None without a random scale."""
    apart, rate = _kernel(prior, gmm, factor, active)
    if prior.least_scale is None:
        return apart - rate, None
    terms = random_scale.Terms(scale_power(prior, active.sum()), rate)
    log_factor, scale = random_scale.log_factor_and_expected(prior, terms)
    return apart + log_factor, scale


def scale_terms(prior: Prior, gmm: GMM, factor: "Factor", active: Bool[Array, " K"]) -> random_scale.Terms:
    """What the active components say of a random scale."""
    return random_scale.Terms(scale_power(prior, active.sum()), _kernel(prior, gmm, factor, active)[1])


def scale_power(prior: Prior, n_active: Numbers | int) -> Any:
    """How often a random scale is a factor of the density of so many components."""
    n_features = prior.mean.shape[-1]
    covariances = get_family(prior.family).scale_power(prior.degrees_of_freedom, n_features, n_active)
    return covariances + n_active * n_features / 2


def given_mixture(prior: Prior, gmm: GMM, active: Bool[Array, " K"]) -> Prior:
    """The prior given E[s | mixture], for an M-step: raising what it expects raises the density with s summed out."""
    if prior.least_scale is None:
        return prior
    factor = get_family(gmm.family).factor(gmm.covariances, gmm.n_features)
    return random_scale.given(prior, random_scale.expected(prior, scale_terms(prior, gmm, factor, active)))


def at_least_scale(prior: Prior | None) -> Prior | None:
    """The prior given the least s: where there is no mixture yet to say what s is."""
    return prior if prior is None or prior.least_scale is None else random_scale.given(prior, prior.least_scale)


def _kernel(prior: Prior, gmm: GMM, factor: "Factor", active: Bool[Array, " K"]) -> tuple[Array, Array]:
    """What of the log density doesn't depend on a random scale, and, to be taken off, what is linear in it."""
    family, n_features = get_family(gmm.family), gmm.n_features
    weights = jnp.where(active, xlogy(prior.concentration - 1, gmm.weights), 0).sum()
    norm = family.structure.coefficients(gmm.means - prior.mean, factor)[2]
    covariances, rate = family.log_prior(factor, n_features, active, prior)
    apart = weights + covariances - jnp.where(active, factor.half_log_det, 0).sum()
    if jnp.ndim(prior.mean_precision):
        return apart, rate + (prior.mean_precision * jnp.where(active, norm, 0)).sum() / 2
    return apart, rate + prior.mean_precision * jnp.where(active, norm, 0).sum() / 2


def log_normaliser(prior: Prior, active: Numbers, xp: Any, gammaln: Any) -> Any:
    """The constant of the prior's density over the active components; with `xp=numpy` it compiles nothing."""
    n_features, n_active = prior.mean.shape[-1], active.sum()
    concentration = xp.where(active, prior.concentration, 0)
    weights = gammaln(concentration.sum()) - xp.where(active, gammaln(xp.where(active, prior.concentration, 1)), 0).sum()
    means = (
        (active if np.ndim(prior.mean_precision) else n_active) * n_features / 2 * xp.log(prior.mean_precision / (2 * np.pi))
    )
    counted = active if {"degrees_of_freedom", "scale"} & set(prior.by_component) else n_active
    covariances = get_family(prior.family).log_normaliser(
        prior.degrees_of_freedom, prior.scale, n_features, counted, xp, gammaln
    )
    each = (values.sum() if np.ndim(values) else values for values in (means, covariances))  # of the components, or of all
    return sum(each, start=weights)
