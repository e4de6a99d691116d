"""`adopt`: draws that someone else's model has made, as a tree of ours."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import xarray
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxgmm.bayes.target.noise import NOISE
from jaxgmm.bayes.target.problem import Draws
from jaxgmm.bayes.trees.build import to_datatree
from jaxgmm.bayes.trees.diagnostics import INVARIANT
from jaxgmm.bayes.trees.schema import PARAMETERS, group_of
from jaxgmm.covariance import get_family
from jaxgmm.data import as_source
from jaxgmm.data.placed import Seen
from jaxgmm.fitting.noise import box_of
from jaxgmm.model.mixture import GMM
from jaxgmm.tools import frames
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.types import on_host
from jaxgmm.tools.validation import unknown


def adopt(
    samples: object,
    x: Float[ArrayLike, "N D"],
    *,
    family: str = "full",
    names: Mapping[str, str] | None = None,
    sample_weight: Float[ArrayLike, " N"] | None = None,
    noise: bool | Float[ArrayLike, " D"] = False,
    feature_names: Sequence[str] | None = None,
) -> xarray.DataTree:
    """Draws of a mixture from a model of your own, as `posterior` would return them: for `relabel`, `diagnose`, `intervals`,
    `membership`, `coclustering` and ArviZ.

    Numbers with one value a draw are kept beside the parameters (and judged by `diagnose`), as are those in `sample_stats`;
    what has other shapes stays in your own samples.

    Args:
        samples: a dict of arrays (chain, draw, ...), such as `mcmc.get_samples(group_by_chain=True)`; NumPyro's `MCMC` itself
            after its run; or an ArviZ tree with a group posterior.
        x: (N, D), the rows that the model was of; an array or a frame.
        family: of the covariances, which says their shape: (..., K, D, D) for "full".
        names: those of your model's variables, by ours: `{"weights": "pi", "means": "mu", "covariances": "Sigma"}`. Names that
            are the same may be left out. A model that has Cholesky factors or scales has no covariances: add them to the dict.
        sample_weight: (N,), as often as the rows count in your model; default 1.
        noise: of a model with noise beside the mixture, as `numpyro_model` has it: True, or (D,) widths of its box; then its
            share is the variable `noise_weight`.
        feature_names: names of the columns; default those of a frame.

    Raises:
        TypeError: samples of another kind.
        ValueError: variables that are missing, not arrays of (chain, draw, ...), or no mixtures: named.

    Example:
        >>> import numpy as np, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> shape = (2, 50)  # two chains of 50 draws, all the same here
        >>> samples = {"pi": np.full((*shape, 1), 1.0), "mu": np.tile(x.mean(0), (*shape, 1, 1)),
        ...     "Sigma": np.tile(np.cov(x.T), (*shape, 1, 1, 1))}
        >>> tree = jg.adopt(samples, x, names={"weights": "pi", "means": "mu", "covariances": "Sigma"})
        >>> tree["posterior"]["means"].dims
        ('chain', 'draw', 'component_id', 'feature')
    """
    family = get_family(family).name
    variables, stats = _variables_of(samples)
    called = dict(zip(PARAMETERS, PARAMETERS, strict=True))
    for name, own in (names or {}).items():
        if name not in PARAMETERS:
            raise unknown("parameter in names", name, PARAMETERS)
        if not isinstance(own, str):
            raise UserTypeError(f"names[{name!r}] must be the name of a variable, got {own!r}.")
        called[name] = own
    for name, own in called.items():
        if own not in variables:
            raise UserError(
                f"samples has no {own!r}, which would be the mixture's {name}: it has {', '.join(variables) or 'nothing'}. "
                f"names={{{name!r}: ...}} says what it is called."
            )
    arrays = {name: np.asarray(variables[own]) for name, own in called.items()}
    sizes = {name: value.shape[:2] for name, value in arrays.items()}
    if len(set(sizes.values())) > 1 or any(value.ndim < 3 for value in arrays.values()):
        shapes = ", ".join(f"{called[name]} {value.shape}" for name, value in arrays.items())
        raise UserError(f"samples must be arrays of (chain, draw, ...), of the same chains and draws, got {shapes}.")
    if 0 in sizes["weights"]:
        raise UserError(f"samples has {sizes['weights'][0]} chains of {sizes['weights'][1]} draws: there are none.")
    source = as_source(x, sample_weight, min_rows=1)
    weights, means, covariances = map(on_host, arrays.values())
    gmm = GMM(weights, means, covariances, family)
    if gmm.n_features != source.n_features:
        raise UserError(f"the draws are mixtures of {gmm.n_features} features, but x has {source.n_features} columns.")
    size = sizes["weights"]
    others = {name: np.asarray(value) for name, value in variables.items() if name not in called.values()}
    extra = {name: value for name, value in others.items() if value.shape == size and value.dtype.kind in "iuf"}
    if (NOISE in extra) != (noise is not False):
        raise UserError(
            f"samples has {'a' if NOISE in extra else 'no'} variable {NOISE!r}, the share of noise, but noise is {noise!r}: "
            "True, or widths of its box, where the model has noise; else call the variable otherwise."
        )
    box = box_of(noise, source)
    for name in extra:
        if name in (*PARAMETERS, *INVARIANT, "n_clusters"):
            raise UserError(f"samples has a variable {name!r}, a name that a tree uses itself: rename it, or leave it out.")
    kept = {name: np.asarray(value) for name, value in stats.items() if np.shape(value) == size}
    return to_datatree(
        Draws(gmm, extra, kept, {}),
        Seen(source.x, None if sample_weight is None else source.weight, box=None if box is None else box.box),
        None,
        key=jax.random.key(0),  # of the allocations, by which clusters are counted
        feature_names=source.feature_names if feature_names is None else feature_names,
        row_labels=frames.row_labels(x),
        attrs={"method": "adopted", "n_chains": size[0], "n_draws": size[1]},
    )


def _variables_of(samples: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Variables and statistics of the draws, by name."""
    if isinstance(samples, xarray.DataTree):
        groups = []
        for name in ("posterior", "sample_stats"):
            group = group_of(samples, name)
            if group.data_vars and not {"chain", "draw"} <= set(group.dims):
                raise UserError(f"the group {name} has the dimensions {', '.join(map(str, group.dims))}, not chain and draw.")
            groups.append(
                {str(own): group[own].transpose("chain", "draw", ...).values for own in group.data_vars if own not in INVARIANT}
            )
        return groups[0], groups[1]
    if hasattr(samples, "get_samples"):  # NumPyro's MCMC
        extra = dict(samples.get_extra_fields(group_by_chain=True))
        if "potential_energy" in extra:
            extra["lp"] = -extra.pop("potential_energy")  # of the unconstrained vector
        return dict(samples.get_samples(group_by_chain=True)), extra
    if isinstance(samples, Mapping):
        return {str(name): value for name, value in samples.items()}, {}
    raise UserTypeError(
        f"samples must be a dict of arrays (chain, draw, ...), NumPyro's MCMC, or an ArviZ tree, got {type(samples).__name__}."
    )
