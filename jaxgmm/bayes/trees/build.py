"""Posterior draws as an ArviZ `xarray.DataTree`, and back."""

import datetime
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jaxtyping import Array

from jaxgmm.bayes.priors.richardson_green import RichardsonGreen
from jaxgmm.bayes.target.noise import NOISE
from jaxgmm.bayes.target.problem import Draws
from jaxgmm.bayes.trees.per_draw import (
    flatten_draws,
    from_prior,
    label_invariant,
    log_density_of_rows,
    log_prior_of_draws,
    noise_from_prior,
    noise_of,
    replicate,
    summed_out_of_draws,
)
from jaxgmm.bayes.trees.schema import (
    BOX,
    CENSORED,
    ERRORS,
    EVIDENCE,
    GROUPS,
    HELD,
    PARAMETERS,
    PRIOR,
    ROW,
    check_feature_names,
    encode_facts,
    facts_of,
    feature_names_of,
    group_of,
    original_names,
    parameter_dims,
    require,
)
from jaxgmm.data.padding import padded_draws
from jaxgmm.data.placed import Seen, roots_of
from jaxgmm.model.holding import FREE, Held
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior
from jaxgmm.tools import precision
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.types import Numbers
from jaxgmm.tools.validation import check_key, check_rows, check_weights, unknown
from jaxgmm.version import __version__

type Coordinates = Mapping[str, np.ndarray]
_DRAW = ("chain", "draw")
_MOST_PRIOR_DRAWS = 1000
_VERSIONS = ("jax", "numpyro", "arviz")


def to_datatree(
    draws: Draws,
    seen: Seen,
    prior: Prior | RichardsonGreen | None,
    *,
    key: Array,
    groups: Sequence[str] = (),
    feature_names: Sequence[str] | None = None,
    row_labels: np.ndarray | None = None,
    attrs: Mapping[str, Any] | None = None,
    held: Held = FREE,
) -> xarray.DataTree:
    """Draws as an ArviZ tree, with the quantities that label switching leaves alone.

    Groups: posterior (the parameters, the prior's own further ones, and `log_likelihood`, `sorted_weights`, `entropy` of each
    draw, see `per_draw.label_invariant`), allocations (`n_clusters` of each draw, a whole number that may never change: ArviZ
    takes what is in posterior for numbers that do), sample_stats, observed_data (`x`, the rows), constant_data (the prior's
    parameters, sample_weight), and on request:

    - log_likelihood: `x`, w_n log p(x_n) of each draw and row, all features together; memory N x draws numbers.
    - log_prior: log density of the parameters.
    - posterior_predictive: `x`, N rows drawn from each draw, with errors of measurement where the rows have some, and with
      noise over its box where they may be noise, but without gaps and limits; memory N x D x draws numbers.
    - prior: parameters from the prior, and prior_predictive: N rows from each; one chain of at most 1000 draws.

    Rows have the dimensions (obs_id, feature), but functions of ArviZ that look at single rows want one number of each:
    `az.plot_loo_pit(tree.sel(feature="eruptions"))`, where rows still are left out whole. With one component `weights`,
    `sorted_weights` and `entropy` never change, and ArviZ warns that they have no r-hat.

    Args:
        draws: from a method.
        seen: the rows, and what is known of them.
        prior: what the draws were made with; None where it isn't known, and nothing is asked for that needs it.
        key: a PRNG key, for allocations and replicated rows.
        groups: further groups, of "log_likelihood", "log_prior", "prior", "posterior_predictive".
        feature_names: D of them; default x0, x1, ...
        row_labels: (N,), the coordinate obs_id, such as `frames.row_labels`; default 0, 1, ...
        attrs: facts about the run; what isn't a string or a number is written as JSON, so that files keep it.
        held: what all draws have as it was; constant_data keeps the flags.

    Raises:
        TypeError, ValueError: arguments that can't be used; names them.

    Example:
        >>> import jax, numpy as np, jaxgmm as jg
        >>> from jaxgmm.bayes.trees.build import to_datatree
        >>> from jaxgmm.bayes.target.problem import Draws
        >>> from jaxgmm.data.placed import Seen
        >>> x = jg.datasets.load_faithful().x
        >>> gmm = jg.GMM([0.36, 0.64], [[2.0, 54.0], [4.3, 80.0]], [[[0.1, 0.5], [0.5, 34.0]]] * 2)
        >>> many = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (4, 50, *leaf.shape)), gmm)
        >>> draws = Draws(many, {}, {"lp": np.zeros((4, 50))}, {})
        >>> tree = to_datatree(draws, Seen(x), jg.Prior.default(x, 2), key=jax.random.key(0))
        >>> list(tree.children)
        ['posterior', 'allocations', 'sample_stats', 'observed_data', 'constant_data']
    """
    check_key(key)
    rows = np.asarray(check_rows(seen.x, "x", n_features=draws.gmm.means.shape[-1], missing=True))
    seen = seen._replace(x=rows, weight=check_weights(seen.weight, rows.shape[0]))
    names = check_feature_names(feature_names, rows.shape[1])
    for group in groups:
        if group not in GROUPS:
            raise unknown("group", group, GROUPS)
    facts = {
        **(attrs or {}),
        **original_names(feature_names),
        "family": draws.gmm.family,
        "prior": "unknown" if prior is None else type(prior).__name__,
        **creation_facts(),
    }
    dtype = precision.compute_dtype(rows)
    with precision.scope(dtype):
        made = _groups(draws, seen, prior, key, coordinates(names, row_labels), set(groups), dtype)
    for name in PARAMETERS:
        if getattr(held, name):
            flags = held.mask(name, draws.gmm.weights.shape[-1])
            made["constant_data"][f"{HELD}{name}"] = (("component_id",), flags)
    tree = xarray.DataTree.from_dict(made)
    tree.attrs = encode_facts(facts)
    return tree


def _groups(
    draws: Draws,
    seen: Seen,
    prior: Any,
    key: Array,
    coords: Coordinates,
    wanted: set[str],
    dtype: np.dtype,
) -> dict[str, xarray.Dataset]:
    gmm, placed, rows = precision.cast(flatten_draws(draws.gmm), dtype), seen.placed(dtype, padded=True), np.asarray(seen.x)
    x, w = placed.rows, placed.weight
    shape, dims = np.shape(draws.gmm.weights)[:2], parameter_dims(gmm.family)
    noise = noise_of(draws.extra.get(NOISE), seen, dtype)
    # What takes few numbers of each draw is compiled once.
    (many, rest), n_present = padded_draws((gmm, noise)), np.int32(shape[0] * shape[1])
    key_labels, key_rows, key_prior = jax.random.split(key, 3)

    def per_draw(values: Any) -> np.ndarray:
        return np.asarray(values)[:n_present].reshape(*shape, *values.shape[1:])

    values = {name: getattr(draws.gmm, name) for name in PARAMETERS} | draws.extra
    values |= {name: per_draw(value) for name, value in label_invariant(many, x, w, key_labels, n_present, rest).items()}
    stats = dict(draws.stats)
    values["log_likelihood"] = stats.pop("log_likelihood", values["log_likelihood"])  # of more rows than the tree has
    if prior is not None:
        hidden = summed_out_of_draws(many, jax.random.fold_in(key, 3), precision.cast(prior, dtype))
        values |= {name: per_draw(value) for name, value in hidden.items()}
    n_clusters = values.pop("n_clusters").astype(int)
    posterior_dims = dims | {"sorted_weights": ("rank",)}
    made = {
        "posterior": dataset_of({name: ((*_DRAW, *posterior_dims.get(name, ())), v) for name, v in values.items()}, coords),
        "allocations": dataset_of({"n_clusters": (_DRAW, n_clusters)}, coords),
        "sample_stats": dataset_of({name: (_DRAW, value) for name, value in stats.items()}, coords),
        "observed_data": dataset_of_rows(rows, coords),
        "constant_data": dataset_of(prior_constants(prior, seen.weight) | known_of_rows(seen), coords),
    }
    made["sample_stats"].attrs = encode_facts(draws.attrs)
    if "posterior_predictive" in wanted:
        roots = None if seen.errors is None else jnp.asarray(roots_of(seen.errors), dtype)
        strewn = () if noise is None else (jnp.exp(noise.log_weight), jnp.asarray(seen.box, dtype))
        replicated = per_draw(replicate(gmm, key_rows, len(rows), roots, *strewn).astype(precision.result_dtype(rows)))
        made["posterior_predictive"] = dataset_of_rows(replicated, coords, _DRAW)
    if "log_likelihood" in wanted:
        made["log_likelihood"] = dataset_of(
            {ROW: ((*_DRAW, "obs_id"), per_draw(placed.in_order(log_density_of_rows(gmm, x, w, noise), 1)))}, coords
        )
    if "log_prior" in wanted:
        extra = {name: np.asarray(value, dtype).reshape(-1) for name, value in draws.extra.items()}
        log_prior = log_prior_of_draws(many, padded_draws(extra) if extra else {}, precision.cast(prior, dtype))
        made["log_prior"] = dataset_of({"log_prior": (_DRAW, per_draw(log_prior))}, coords)
    if "prior" in wanted:
        n_draws = min(shape[0] * shape[1], _MOST_PRIOR_DRAWS)
        site = from_prior(key_prior, n_draws, len(rows), gmm.n_components, gmm.family, precision.cast(prior, dtype))
        if noise is not None:
            site |= noise_from_prior(jax.random.fold_in(key, 4), site["x"], jnp.asarray(seen.box, dtype))
        made["prior_predictive"] = dataset_of_rows(np.asarray(site.pop("x"))[None], coords, _DRAW)
        made["prior"] = dataset_of({name: ((*_DRAW, *dims.get(name, ())), v[None]) for name, v in site.items()}, coords)
    return made


def coordinates(feature_names: Sequence[str], row_labels: np.ndarray | None) -> Coordinates:
    """Of features and, where they have labels, of rows."""
    names = np.array(feature_names)
    return {"feature": names, "feature_bis": names} | ({} if row_labels is None else {"obs_id": row_labels})


def dataset_of(variables: Mapping[str, tuple[Sequence[str], Any]], coords: Coordinates) -> xarray.Dataset:
    """Variables given as (dimensions, values); dimensions without coordinates are counted from 0."""
    dataset = xarray.Dataset({name: (tuple(dims), np.asarray(value)) for name, (dims, value) in variables.items()})
    return dataset.assign_coords({dim: coords.get(str(dim), np.arange(size)) for dim, size in dataset.sizes.items()})


def dataset_of_rows(rows: Any, coords: Coordinates, leading: tuple[str, ...] = ()) -> xarray.Dataset:
    """Rows (..., N, D) as a group has them: one variable, features as coordinates."""
    return dataset_of({ROW: ((*leading, "obs_id", "feature"), rows)}, coords)


def prior_constants(prior: Any, weight: Numbers | None) -> dict[str, tuple[Sequence[str], Any]]:
    """A prior's fields, and the rows' weights, as variables of constant_data: (dimensions, values)."""
    dims = {"concentration": ("component_id",), "mean": ("feature",), "scale": ("feature", "feature_bis")}
    own = {} if prior is None else vars(prior)
    fields = {name: np.asarray(value) for name, value in own.items() if name != "family" and value is not None}
    if isinstance(prior, Prior):
        dims |= {name: ("component_id", *dims.get(name, ())) for name in prior.by_component if name != "concentration"}
    constants = {f"{PRIOR}{name}": (dims.get(name, ())[: value.ndim], value) for name, value in fields.items()}
    return constants | ({} if weight is None else {"sample_weight": (("obs_id",), weight)})


def known_of_rows(seen: Seen) -> dict[str, tuple[Sequence[str], Any]]:
    """What is known of rows besides, as variables of constant_data: (dimensions, values)."""
    known = {} if seen.errors is None else {ERRORS: (("obs_id", "feature", "feature_bis")[: seen.errors.ndim], seen.errors)}
    known |= {} if seen.censored is None else {CENSORED: (("obs_id", "feature"), seen.censored)}
    known |= {} if seen.box is None else {name: (("feature",), corner) for name, corner in zip(BOX, seen.box, strict=True)}
    return known | ({} if seen.evidence is None else {EVIDENCE: (("obs_id", "component_id"), np.asarray(seen.evidence))})


def creation_facts() -> dict[str, str]:
    """When a tree was made, and by which versions."""
    versions = {f"{name}_version": importlib.metadata.version(name) for name in _VERSIONS}
    now = datetime.datetime.now(datetime.UTC).isoformat()
    library = {"creation_library": "jaxgmm", "creation_library_version": __version__}
    return {"created_at": now, **library, "creation_library_language": "Python", **versions}


def draws_of(tree: xarray.DataTree) -> GMM:
    """The draws as a `GMM` with leading axes (chain, draw).

    Raises:
        TypeError: not a DataTree.
        ValueError: a tree without the posterior group, one of its variables, or the family: names it.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> fit = jg.fit(x, n_components=2, key=jax.random.key(0))
        >>> tree = jg.posterior(x, fit, method="gibbs", key=jax.random.key(1), n_draws=50, n_chains=2)
        >>> draws = jg.draws_of(tree)
        >>> jax.vmap(jax.vmap(lambda g: g.mean()))(draws).shape
        (2, 50, 2)
    """
    require(tree, "draws_of", posterior=PARAMETERS)
    family = facts_of(tree).get("family")
    if family is None:
        raise UserError("the tree has no attribute 'family', so it isn't one of jaxgmm.posterior's.")
    dims, leaves = parameter_dims(family), {}
    for name in PARAMETERS:
        variable, wanted = group_of(tree, "posterior")[name], (*_DRAW, *dims[name])
        if set(variable.dims) != set(wanted):
            raise UserError(f"posterior/{name} has dimensions {variable.dims}, but family {family!r} has {wanted}.")
        values = variable.transpose(*wanted).values
        leaves[name] = precision.as_parameters(values, values.dtype)
    return GMM.unchecked(**leaves, family=family, feature_names=feature_names_of(tree))
