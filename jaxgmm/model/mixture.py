"""`GMM`: the parameter pytree that EM, MAP, variational inference and MCMC share, and what a mixture can answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxgmm.covariance import Factor, get_family
from jaxgmm.model import algebra, reading
from jaxgmm.model.answering import Answering
from jaxgmm.model.density import Components, components_of
from jaxgmm.model.requirements import are_of_mixtures, check_names, check_shapes, check_values, places_of
from jaxgmm.tools import precision
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.files import write_arrays
from jaxgmm.tools.hints import OF_MIXTURES, Hinting
from jaxgmm.tools.pytree import pytree, unchecked
from jaxgmm.tools.reading import Page, Readable, is_on_host
from jaxgmm.tools.validation import (
    check_count,
    check_key,
    check_path,
    check_single,
    floating,
    is_traced,
)

PARAMETERS = ("weights", "means", "covariances")
FORMAT, KIND = 1, "jaxgmm.GMM"  # of files


@pytree(static=("family",), labels=("feature_names",))
@dataclass(frozen=True, eq=False, repr=False)
class GMM(Answering, Readable, Hinting):
    """A Gaussian mixture, sum_k weights_k Normal(means_k, covariances_k).

    A frozen pytree: `jit`, `vmap` and `grad` see three arrays and one static name. Leading axes are allowed, and mean many
    mixtures (restarts, posterior draws): `jax.vmap(lambda g: g.log_prob(x))(draws)`. A component with weight 0 is inactive;
    one with the least that a fit gives, 1.2e-38, is without rows: it has a prior, but no density, and takes no row.

    Args:
        weights: (K,), on the simplex.
        means: (K, D), in the units of the data.
        covariances: (K, D, D) for "full", (D, D) for "tied", (K, D) for "diag", (K,) for "spherical"; squared units. In the
            shape of one of these for mclust's other families, whose components share something ("VEV": a shape).
        family: covariance family, by scikit-learn's name or mclust's; kept under the former.
        feature_names: D strings, or None. By them the columns of frames (pandas, polars, pyarrow, xarray) are matched; arrays
            go by position. Inside jit, vmap and grad there are none, nor in what jit and vmap return.

    Raises:
        TypeError: an argument that isn't real numbers.
        ValueError: shapes that don't fit, an unknown family, weights off the simplex, covariances that aren't positive
            definite or don't share what the family's do. Traced arrays are checked for shape only.

    Example:
        >>> import jaxgmm as jg
        >>> gmm = jg.GMM(weights=[0.3, 0.7], means=[[0.0], [4.0]], covariances=[[1.0], [2.0]], family="diag")
        >>> gmm.predict([[0.5], [3.0]]).tolist()
        [0, 1]
    """

    weights: Float[Array, "*draws K"]
    means: Float[Array, "*draws K D"]
    covariances: Float[Array, "..."]
    family: str = "full"
    feature_names: tuple[str, ...] | None = None

    _elsewhere = OF_MIXTURES

    def __post_init__(self) -> None:
        object.__setattr__(self, "family", get_family(self.family).name)
        for name in ("weights", "means", "covariances"):
            object.__setattr__(self, name, floating(getattr(self, name), name))
        check_shapes(self.weights, self.means, self.covariances, self.family)
        object.__setattr__(self, "feature_names", check_names(self.feature_names, self.n_features))
        if not is_traced(self):
            check_values(np.asarray(self.weights), np.asarray(self.means), np.asarray(self.covariances), self.family)

    @classmethod
    def unchecked(
        cls, weights: object, means: object, covariances: object, family: str, feature_names: tuple[str, ...] | None = None
    ) -> "GMM":
        """A GMM from leaves that are known to be right, or that aren't arrays at all (as JAX's own tree functions need)."""
        leaves = {"weights": weights, "means": means, "covariances": covariances}
        return unchecked(cls, **leaves, family=family, feature_names=feature_names)

    def named(self, feature_names: Sequence[str] | None) -> "GMM":
        """The same mixture with these names of its features, or with none.

        Args:
            feature_names: D different strings; None: columns go by position.

        Raises:
            TypeError, ValueError: another number of names, names that aren't strings, one given twice.

        Example:
            >>> import pandas as pd, jaxgmm as jg
            >>> gmm = jg.GMM([1.0], [[0.0, 10.0]], [1.0], "spherical").named(["a", "b"])
            >>> bool(gmm.log_prob(pd.DataFrame({"b": [10.0], "a": [0.0]})) == gmm.log_prob([[0.0, 10.0]]))
            True
        """
        names = check_names(feature_names, self.n_features)
        return GMM.unchecked(self.weights, self.means, self.covariances, self.family, names)

    # What it is

    @property
    def n_components(self) -> int:
        """K, inactive components included."""
        return self.weights.shape[-1]

    @property
    def n_features(self) -> int:
        """D."""
        return self.means.shape[-1]

    @property
    def n_parameters(self) -> int:
        """Free parameters: K - 1 weights, K D means, and the family's covariances.

        Example:
            >>> import jaxgmm as jg
            >>> jg.GMM([0.3, 0.7], [[0.0], [4.0]], [1.0, 2.0], "spherical").n_parameters
            5
        """
        return get_family(self.family).n_parameters(self.n_components, self.n_features)

    def dense_covariances(self) -> Float[Array, "K D D"]:
        """The covariances as full matrices, whatever the family."""
        check_single(self.weights, "g.dense_covariances()")
        return precision.derive(algebra.dense, self)

    def mean(self) -> Float[Array, " D"]:
        """Mean of the mixture, sum_k pi_k mu_k."""
        check_single(self.weights, "g.mean()")
        return precision.derive(algebra.mean, self)

    def covariance(self) -> Float[Array, "D D"]:
        """Covariance of the mixture: within components plus between their means."""
        check_single(self.weights, "g.covariance()")
        return precision.derive(algebra.covariance, self)

    def components(self, factor: Factor | None = None) -> Components:
        """What its density is made of; `factor` if the covariances are factored already. For traced arrays of one dtype."""
        factor = self.factored() if factor is None else factor
        return components_of(self.weights, self.means, factor, get_family(self.family).structure)

    def factored(self) -> Factor:
        """Its covariances taken apart. For traced arrays."""
        return get_family(self.family).factor(self.covariances, self.n_features)

    def moved(self, shift: Float[Array, " D"]) -> "GMM":
        """The mixture of rows to which `shift` has been added. For traced arrays."""
        return GMM.unchecked(self.weights, self.means + shift, self.covariances, self.family)

    def _as_gmm(self) -> "GMM":
        return self

    def _page(self) -> Page:
        leaves = {name: getattr(self, name) for name in PARAMETERS}
        shapes = [getattr(leaf, "shape", None) for leaf in leaves.values()]
        if not are_of_mixtures(shapes, self.family):  # JAX puts shapes, axes and whatever else a user maps to in their place
            return Page(f"GMM: {self.family}", [f"{name}: {leaf!r}" for name, leaf in leaves.items()])
        title = f"GMM: {reading.what(self.family, self.n_components, self.n_features)}"
        if self.weights.ndim == 1 and is_on_host(*leaves.values()):
            numbers = reading.numbers(self)
            return Page(title, (), reading.table(numbers), lambda: reading.picture(numbers))
        many = f"; {' × '.join(map(str, self.weights.shape[:-1]))} mixtures" if self.weights.ndim > 1 else ""
        traced = "; traced" if is_traced(self) else ""
        described = (f"{name} {leaf.dtype}{list(leaf.shape)}" for name, leaf in leaves.items())
        return Page(title + many + traced, [", ".join(described)])

    # Mixtures made from it

    def marginal(self, features: Sequence[int] | Sequence[str]) -> "GMM":
        """The mixture of some features alone.

        What components share in all features they may not share in some: EVI is "diag" then, EVE, VVE, EEV, VEV and EVV "full".

        Args:
            features: indices or names of the features to keep, in the order they are wanted.

        Raises:
            ValueError: no feature, an index out of range, or one given twice.

        Example:
            >>> import jaxgmm as jg
            >>> gmm = jg.GMM([1.0], [[1.0, 2.0]], [[[1.0, 0.5], [0.5, 2.0]]])
            >>> gmm.marginal([1]).means.tolist()
            [[2.0]]
        """
        keep = places_of(features, self.feature_names, self.n_features)
        check_single(self.weights, "g.marginal(features)")
        return precision.derive(lambda gmm: algebra.marginal(gmm, keep), self).named(_names_of(self, keep))

    def condition(self, features: Sequence[int] | Sequence[str], values: Float[ArrayLike, " G"]) -> "GMM":
        """The mixture of the other features given some: p(x_rest | x_features = values).

        pi_k changes to pi_k N(values | mu_k, Sigma_k), normalised; each component to its conditional Gaussian (Bishop 2006,
        eq. 2.81-2.82). Its `mean()` is the regression of the rest on the given features. The family is that of `marginal`.

        Args:
            features: indices or names of the given features, fewer than D.
            values: (G,), their values, in their units; `jax.vmap` for many.

        Raises:
            ValueError: indices out of range, repeated or all of them; another number of values; values not finite.

        Example:
            >>> import jaxgmm as jg
            >>> gmm = jg.GMM([1.0], [[0.0, 0.0]], [[[1.0, 0.8], [0.8, 1.0]]])
            >>> round(float(gmm.condition([0], [2.0]).mean()[0]), 6)
            1.6
        """
        check_single(self.weights, "g.condition(features, values)")
        given = places_of(features, self.feature_names, self.n_features)
        if given.size == self.n_features:
            raise UserError(f"features {list(features)!r} are all {self.n_features}: nothing is left to condition.")
        given_values = floating(values, "values")
        if given_values.shape != given.shape:
            raise UserError(f"values has shape {given_values.shape}; one for each of the {given.size} features is needed.")
        if not is_traced(given_values) and not np.isfinite(np.asarray(given_values)).all():
            raise UserError(f"values must be finite, got {np.asarray(given_values).tolist()}.")
        rest = np.setdiff1d(np.arange(self.n_features), given)
        known, left = tuple(given.tolist()), tuple(rest.tolist())
        conditional = precision.derive(lambda gmm, point: algebra.condition(gmm, known, left, point), self, given_values)
        return conditional.named(_names_of(self, rest))

    def sample(self, key: Array, n_samples: int) -> tuple[Float[Array, "N D"], Int[Array, " N"]]:
        """Draw rows and the components they come from.

        Memory is N x D: only the chosen component's row is drawn, and covariance factors are gathered in blocks.

        Args:
            key: a PRNG key.
            n_samples: how many rows.

        Returns:
            Rows (N, D) and labels (N,).

        Example:
            >>> import jax, jaxgmm as jg
            >>> rows, labels = jg.GMM([1.0], [[0.0]], [1.0], "spherical").sample(jax.random.key(0), 5)
            >>> rows.shape, labels.shape
            ((5, 1), (5,))
        """
        check_single(self.weights, "g.sample(key, n_samples)")
        check_key(key)
        n_samples = check_count(n_samples, "n_samples")
        return precision.derive(lambda gmm, key: algebra.draw_rows(gmm, key, n_samples), self, key, native=True)

    def save(self, path: str | Path) -> Path:
        """Write the mixture to a `.npz` file, read back by `jaxgmm.load`. Returns the path, as NumPy completes it."""
        path = check_path(path)
        if path.suffix != ".npz":
            path = path.with_name(path.name + ".npz")
        arrays: dict[str, Any] = {name: np.asarray(getattr(self, name)) for name in PARAMETERS}
        for name, array in arrays.items():
            if array.dtype.kind != "f":  # bfloat16, which npz can't name
                arrays[name] = array.astype(np.float32)
        names = None if self.feature_names is None else list(self.feature_names)
        write_arrays(path, arrays, header={"format": FORMAT, "kind": KIND, "family": self.family, "feature_names": names})
        return path


def _names_of(gmm: GMM, features: np.ndarray) -> tuple[str, ...] | None:
    return None if gmm.feature_names is None else tuple(gmm.feature_names[i] for i in features)
