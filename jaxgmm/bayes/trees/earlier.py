"""Trees that earlier versions wrote, as if they were of this one."""

from typing import Any

import xarray

from jaxgmm.bayes.trees.schema import ROW, facts_of, group_of

_OF_ROWS = ("observed_data", "posterior_predictive", "prior_predictive")
_OF_PARTITIONS = ("n_clusters", "n_components", "sorted_weights")


def as_now(tree: xarray.DataTree) -> xarray.DataTree:
    """The tree with its rows in one variable, and whole numbers in the group allocations; one of this version as it is.

    Until 0.1.0 each feature was a variable of its own, the rows' log-likelihood a coordinate under each of these names, and
    numbers of clusters, with all that goes with them, stood among the parameters.
    """
    groups: dict[str, xarray.Dataset] = {str(name): child.to_dataset() for name, child in tree.children.items()}
    made: dict[str, xarray.Dataset] = {}
    if "feature" not in group_of(tree, "observed_data").dims:
        feature = next((groups[name]["feature"] for name in ("posterior", "constant_data") if "feature" in groups[name]), None)
        if feature is not None:
            made |= {name: _in_one(groups[name], feature) for name in _OF_ROWS if name in groups}
        if "log_likelihood" in groups:
            made["log_likelihood"] = groups["log_likelihood"][[ROW]].reset_coords(drop=True)
    posterior = group_of(tree, "posterior")
    if "n_clusters" in posterior:
        counted = "cluster_count" in groups
        names = _OF_PARTITIONS if counted else ("n_clusters",)
        allocations = group_of(tree, "allocations").assign({name: posterior[name] for name in names})
        made["allocations"] = allocations.assign(n_clusters=allocations["n_clusters"].astype(int))
        made["posterior"] = posterior.drop_vars(names).drop_dims("rank" if counted else ())
        if counted and facts_of(tree)["alpha"] not in ("f", "gamma"):
            made["constant_data"] = groups["constant_data"].assign(alpha=posterior["alpha"][0, 0].drop_vars(("chain", "draw")))
            made["posterior"] = made["posterior"].drop_vars("alpha")
    if not made:
        return tree
    order: dict[str, Any] = {"posterior": None, "allocations": None} if "allocations" in made else {}
    now = xarray.DataTree.from_dict(order | groups | made)
    now.attrs = tree.attrs
    return now


def _in_one(group: xarray.Dataset, feature: xarray.DataArray) -> xarray.Dataset:
    columns = [group[str(name)] for name in feature.values]
    rows = xarray.concat(columns, feature.variable, coords="minimal", compat="override").transpose(..., "feature")
    return rows.rename(ROW).to_dataset().assign_attrs(group.attrs)
