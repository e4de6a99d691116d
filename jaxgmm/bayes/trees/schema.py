"""What a posterior tree looks like: its groups, variables, dimensions and facts, and what to say where one is missing."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Float

from jaxgmm.bayes.target.noise import NOISE
from jaxgmm.covariance import get_family
from jaxgmm.data.placed import Seen
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.types import Facts

if TYPE_CHECKING:
    import xarray  # takes .3 s, and `posterior` comes by here before chains are compiled

GROUPS = ("log_likelihood", "log_prior", "prior", "posterior_predictive")  # on request
DIMS = ("chain", "draw", "component_id", "feature", "feature_bis", "obs_id", "rank")
PARAMETERS = ("weights", "means", "covariances")
ERRORS, EVIDENCE, CENSORED = "error_covariances", "label_evidence", "censored"  # of rows, in constant_data
BOX = ("noise_lower", "noise_upper")  # of constant_data: corners of the box over which noise is uniform
HELD = "held_"  # of constant_data, and the name of a parameter: whose of it was held
PRIOR = "prior_"  # of constant_data, and the name of a number of the prior
ROW = "x"  # the rows' name in every group that is about them: NumPyro's site
_RESERVED = (*DIMS, "sample", ".")  # "sample" is what ArviZ calls chain and draw together; HDF5 knows "." as a folder


def parameter_dims(family: str) -> dict[str, tuple[str, ...]]:
    """Dimensions of weights, means and covariances of one mixture, by name."""
    # Told by the shape for numbers that can't be mistaken for one another.
    names = {2: "component_id", 3: "feature"}
    shape, dims = get_family(family).shape(2, 3), []
    for size in shape:
        dims.append("feature_bis" if names[size] in dims else names[size])
    return {"weights": ("component_id",), "means": ("component_id", "feature"), "covariances": tuple(dims)}


def check_feature_names(feature_names: Sequence[str] | None, n_features: int) -> tuple[str, ...]:
    """Names that can be variables of a tree and of its files: x0, x1, ... for None.

    White space and "/" become "_": netCDF knows no coordinates with a space, and takes "/" for folders.

    Raises:
        TypeError: not strings.
        ValueError: another number of them, repeated ones, or one that the tree uses itself.

    Example:
        >>> from jaxgmm.bayes.trees.schema import check_feature_names
        >>> check_feature_names(["sepal length (cm)", "km/h"], 2)
        ('sepal_length_(cm)', 'km_h')
    """
    if feature_names is None:
        return tuple(f"x{d}" for d in range(n_features))
    if isinstance(feature_names, str) or not all(isinstance(name, str) for name in feature_names):
        raise UserTypeError(f"feature_names must be {n_features} strings, got {feature_names!r}.")
    names = tuple(re.sub(r"[\s/]", "_", str(name).strip()) for name in feature_names)
    if len(names) != n_features:
        raise UserError(f"feature_names has {len(names)} names, but x has {n_features} columns: {list(names)}.")
    for d, name in enumerate(names):
        if name in names[:d]:
            raise UserError(f"feature_names has {name!r} twice (white space and '/' become '_'): rename one of them.")
        if not name or name in _RESERVED:
            raise UserError(
                f"feature_names[{d}] is {name!r}, but a name mustn't be empty or one of the tree's own, "
                f"{', '.join(_RESERVED)}: rename it."
            )
    return names


def original_names(feature_names: Sequence[str] | None) -> dict[str, Any]:
    """The attribute of a tree that keeps the names as they were in the data; see `check_feature_names`."""
    return {} if feature_names is None else {"feature_names": list(feature_names)}


def feature_names_of(tree: "xarray.DataTree") -> tuple[str, ...] | None:
    """The features' names as they were in the data; None if they had none. Trees without that fact: the features' own."""
    names = facts_of(tree).get("feature_names")
    if names is None:
        groups = [group_of(tree, name) for name in ("posterior", "constant_data")]
        names = next((group["feature"].values.tolist() for group in groups if "feature" in group.coords), [])
    return None if not names or tuple(names) == check_feature_names(None, len(names)) else tuple(names)


def names_of_data(feature_names: Sequence[str]) -> dict[str, str]:
    """The data's name of each feature, by that in a tree (see `check_feature_names`)."""
    return dict(zip(check_feature_names(feature_names, len(feature_names)), feature_names, strict=True))


def rows_of(tree: "xarray.DataTree", user: str) -> tuple[Float[np.ndarray, "N D"], Float[np.ndarray, " N"]]:
    """The observed rows and their weights. `user` needs them.

    Raises:
        ValueError: groups or variables that are missing.
    """
    require(tree, user, observed_data=(ROW,))
    observed, constants = group_of(tree, "observed_data"), group_of(tree, "constant_data")
    rows = observed[ROW].transpose("obs_id", "feature").values
    return rows, constants["sample_weight"].values if "sample_weight" in constants else np.ones(len(rows), rows.dtype)


def seen_of(tree: "xarray.DataTree", user: str) -> Seen:
    """The observed rows with what is known of them besides. `user` needs them; errors as `rows_of`."""
    rows, weight = rows_of(tree, user)
    constants = group_of(tree, "constant_data")
    box = np.stack([constants[name].values for name in BOX]) if BOX[0] in constants else None
    known = (constants[name].values if name in constants else None for name in (ERRORS, EVIDENCE, CENSORED))
    return Seen(rows, weight, *known)._replace(box=box)


def shares_of(tree: "xarray.DataTree") -> Float[np.ndarray, "chain draw"] | None:
    """The shares of noise; None where no row may be noise."""
    posterior = group_of(tree, "posterior")
    may_be = BOX[0] in group_of(tree, "constant_data")  # draws of someone else's model may have a variable of that name
    return posterior[NOISE].transpose("chain", "draw").values if may_be and NOISE in posterior else None


def row_labels_of(tree: "xarray.DataTree") -> np.ndarray:
    """The observed rows' labels, (N,): see `frames.row_labels`."""
    return np.asarray(group_of(tree, "observed_data")["obs_id"].values)


def group_of(tree: "xarray.DataTree", name: str) -> "xarray.Dataset":
    """A group of a tree; empty if there is none."""
    import xarray

    child = tree.children.get(name)
    return xarray.Dataset() if child is None else child.to_dataset()


def require(tree: "xarray.DataTree", user: str, **groups: Sequence[str]) -> None:
    """Raises where a tree lacks groups, or variables of them, that the function named `user` needs.

    Raises:
        TypeError: not a DataTree.
        ValueError: names what is missing.
    """
    import xarray

    if not isinstance(tree, xarray.DataTree):
        raise UserTypeError(f"{user} needs the DataTree that jaxgmm.posterior returns, got {type(tree).__name__}.")
    missing = [group for group in groups if group not in tree.children]
    if missing:
        raise UserError(
            f"{user} needs the group{'s' if len(missing) > 1 else ''} {', '.join(missing)}; this tree has "
            f"{', '.join(map(str, tree.children)) or 'none'}. Was it made by jaxgmm.posterior?"
        )
    for group, names in groups.items():
        absent = [name for name in names if name not in tree[group].data_vars]
        if absent:
            raise UserError(f"{user} needs {', '.join(f'{group}/{name}' for name in absent)}, which this tree lacks.")


def facts_of(tree: Any) -> Facts:
    """The attributes of a tree (or group) as they were before they were written as strings."""
    return {str(name): _decode(value) for name, value in tree.attrs.items()}


def encode_facts(facts: Mapping[Any, Any]) -> Facts:
    """Facts as netCDF and Zarr can keep them: strings and numbers as they are, the rest as JSON."""
    return {str(name): _encode(value) for name, value in facts.items()}


def _encode(value: object) -> Any:
    if isinstance(value, np.generic | jax.Array | np.ndarray):
        value = np.asarray(value).tolist()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return value
    return json.dumps(value, default=lambda other: np.asarray(other).tolist() if hasattr(other, "__array__") else str(other))


def _decode(value: object) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str) and (value[:1] in ("[", "{") or value in ("true", "false", "null")):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
