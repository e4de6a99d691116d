"""Groups of rows of about one size, and their starts, as one compiled batch."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxgmm.covariance import Family
from jaxgmm.data.moments import Moments
from jaxgmm.fitting.batch import pivot_floor
from jaxgmm.fitting.group_step import EMOfGroups, NoRows, OwnRows, constants_of, seeded_groups
from jaxgmm.fitting.loop import climb
from jaxgmm.fitting.priors import Change, check_alike, resolve_prior
from jaxgmm.fitting.seeds import column_scales
from jaxgmm.fitting.step import Rules, Search
from jaxgmm.model.default_prior import NAMES, Values
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.pytree import unchecked
from jaxgmm.tools.types import on_host

_LOOK_AFTER = 8  # steps: most groups need few


def starts_of(some: np.ndarray, counts: np.ndarray, sizes: Sequence[int], n_init: int) -> "GroupStarts":
    """All starts of some groups, of which `counts` has the numbers of rows, for each of `sizes` they have rows for."""
    enough = counts[some][:, None] >= np.array(sizes)
    group, size = np.nonzero(enough)
    return GroupStarts(np.repeat(group, n_init), np.repeat(size, n_init), np.tile(np.arange(n_init), len(group)))


class GroupStarts(NamedTuple):
    """Places of the group, of the number of components and of the start, for each of R starts."""

    group: Int[np.ndarray, " R"]
    size: Int[np.ndarray, " R"]
    number: Int[np.ndarray, " R"]


class GroupBatch(NamedTuple):
    """Groups of one padded length. That of the prior of group g and size s is g S + s."""

    x: Float[np.ndarray, "G L D"]
    weight: Float[np.ndarray, "G L"]
    total: Float[np.ndarray, " G"]
    centre: Float[np.ndarray, "G D"]
    scales: Float[np.ndarray, "G D"]
    floor: Float[np.ndarray, "G p"]
    priors: list[Values] | None
    family: str

    @classmethod
    def of(
        cls,
        groups: list[tuple[np.ndarray, Moments]],
        sizes: Sequence[int],
        length: int,
        kind: Family,
        prior: Prior | Change | str | None,
        dtype: np.dtype,
    ) -> "GroupBatch":
        """Groups, each with its rows and their moments, with what their fits need to know besides."""
        x, weight = np.empty((len(groups), length, groups[0][0].shape[1]), dtype), np.zeros((len(groups), length), dtype)
        floors, priors, scales, means = [], [], [], []
        for g, (each, moments) in enumerate(groups):
            n = len(each)
            x[g, :n], x[g, n:], weight[g, :n] = each, each[-1], 1
            means.append(moments.mean)
            scales.append(column_scales(moments, kind.name))
            floors.append(np.atleast_1d(pivot_floor(moments, kind, dtype)) if prior is None else np.zeros(1))
            if prior is not None:
                priors += [_values(prior, moments, k, kind) for k in sizes]
        centre, scale, floor = (np.array(each, dtype) for each in (means, scales, floors))
        return cls(x, weight, weight.sum(1), centre, scale, floor, priors or None, kind.name)

    def climb(
        self,
        starts: GroupStarts,
        uniforms: Float[np.ndarray, "G S I K"],
        sizes: Sequence[int],
        most: int,
        init: str,
        rtol: float,
        max_steps: int,
        places: int,
    ) -> Search[GMM]:
        """All starts, to their end; padded by copies of the last one where there are fewer than places."""
        n_starts = len(starts.group)
        padded = np.minimum(np.arange(max(n_starts, places)), n_starts - 1)
        group, size, number = (each[padded] for each in starts)
        active = np.arange(most) < np.array(sizes)[size][:, None]
        priors = self._stacked(sizes, most)
        prior = None if priors is None else jax.tree.map(lambda leaf: leaf[group * len(sizes) + size], priors)
        nothing = np.zeros(len(group), self.x.dtype)
        own = OwnRows(
            prior,
            on_host(nothing),
            *map(on_host, (active, self.x[group], self.weight[group], self.centre[group], self.floor[group])),
        )
        if prior is not None:
            own = own._replace(constant=_in_parts(constants_of, places, prior, active))
        drawn = uniforms[group, size, number].astype(self.x.dtype), self.scales[group], np.array(sizes)[size]
        seeds = _in_parts(lambda *each: seeded_groups(*each, init=init, family=self.family), places, *drawn, own)
        longest = on_host(np.asarray(int(self.total.max()), np.int32))
        rules = Rules(own, longest, self.total[group], on_host(np.asarray(rtol, self.x.dtype)))
        data = NoRows(on_host(np.zeros(0, self.x.dtype)))
        found = climb(seeds, data, rules, max_steps, EMOfGroups(), places=places, look_after=_LOOK_AFTER, traced=False)  # type: ignore[arg-type]
        return jax.tree.map(lambda leaf: leaf[:n_starts], found)

    def _stacked(self, sizes: Sequence[int], most: int) -> Prior | None:
        """The priors, every leaf with a leading axis, concentrations (., K)."""
        if self.priors is None:
            return None
        fields = self.priors[0].keys() - {"concentration"}
        if any(prior.keys() - {"concentration"} != fields for prior in self.priors):
            raise UserError("prior is a function that sets least_scale for some groups and not for others: let it for all.")
        leaves = {name: np.array([prior[name] for prior in self.priors], self.x.dtype) for name in fields}
        concentration = np.ones((len(self.priors), most), self.x.dtype)
        for i, k in enumerate(sizes):  # of a size all concentrations have one shape, () or (k,)
            given = [np.broadcast_to(prior["concentration"], k) for prior in self.priors[i :: len(sizes)]]
            concentration[i :: len(sizes), :k] = given
        named = {name: on_host(leaf) for name, leaf in leaves.items()} | {"concentration": on_host(concentration)}
        return unchecked(Prior, **{"least_scale": None} | named, family=self.family)


def _values(prior: Prior | Change | str, moments: Moments, n_components: int, kind: Family) -> Values:
    """The fields of a group's prior. Those with a name are right by construction: checks would take most of the time."""
    if isinstance(prior, str):
        return NAMES[prior](moments, n_components, kind)
    resolved = resolve_prior(prior, moments, n_components, kind.name)
    assert resolved is not None
    check_alike(resolved, "fit_groups", "fit(...) of each group")
    return {name: np.asarray(getattr(resolved, name)) for name in resolved.fields}


def _in_parts(f: Callable[..., Any], places: int, *trees: Any) -> Any:
    """`f` of so many starts at a time, so that one compiled program serves any number of them."""
    n = len(jax.tree.leaves(trees)[0])
    parts = []
    for first in range(0, n, places):
        index = np.minimum(np.arange(first, first + places), n - 1)
        part = f(*jax.tree.map(lambda leaf, index=index: leaf[index], trees))
        some = min(places, n - first)
        parts.append(jax.tree.map(lambda leaf, some=some: np.asarray(leaf)[:some], part))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
