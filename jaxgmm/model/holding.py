"""What of a mixture is held, at the values that it has, while the rest is fitted or drawn."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool

from jaxgmm.covariance import get_family
from jaxgmm.model.mixture import GMM, PARAMETERS
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.validation import is_traced, unknown

ALL, EQUAL = "all", "equal"


@dataclass(frozen=True)
class Held:
    """Which components keep which parameters: static, so that a program knows what it needn't compute.

    Attributes:
        weights: K flags, or none where no component keeps its own. Never all but one: that one has what is left.
        means: as `weights`.
        covariances: as `weights`; all or none where components share something of them.
        equal: all weights are held, and are the same whatever a mixture had.
    """

    weights: tuple[bool, ...] = ()
    means: tuple[bool, ...] = ()
    covariances: tuple[bool, ...] = ()
    equal: bool = False

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in PARAMETERS)

    def whole(self, name: str) -> bool:
        """Whether all components keep the parameter."""
        flags = getattr(self, name)
        return bool(flags) and all(flags)

    def mask(self, name: str, n_components: int) -> Bool[np.ndarray, " K"]:
        """(K,), which components keep the parameter; those that are padding don't."""
        flags = np.zeros(n_components, bool)
        flags[: len(getattr(self, name))] = getattr(self, name)
        return flags

    def keep(self, name: str, old: Any, new: Any, xp: Any = jnp) -> Any:
        """The parameter's new values but where it is held, `old` (K, ...); `new` may have leading axes."""
        if not getattr(self, name):
            return new
        if self.whole(name):
            return xp.broadcast_to(old, new.shape)
        mask = self.mask(name, len(old))
        return xp.where(mask.reshape(-1, *(1,) * (old.ndim - 1)), old, new)

    def of(self, gmm: GMM) -> GMM:
        """The mixture, or several along leading axes, that has the values: itself but for equal weights."""
        if not self.equal:
            return gmm
        active = (gmm.weights if is_traced(gmm.weights) else np.asarray(gmm.weights)) > 0
        weights: Any = (active / active.sum(-1, keepdims=True)).astype(gmm.weights.dtype)
        return GMM.unchecked(weights, gmm.means, gmm.covariances, gmm.family, gmm.feature_names)

    @property
    def needs_values(self) -> bool:
        """Whether a mixture has to say at which values."""
        return bool(self) and not (self.equal and not self.means and not self.covariances)

    def put_back(self, gmm: GMM, old: GMM, xp: Any = np) -> GMM:
        """The mixture, or several along leading axes, with what is held as it was, bit by bit."""
        leaves = {name: self.keep(name, getattr(old, name), getattr(gmm, name), xp) for name in PARAMETERS}
        return GMM.unchecked(**leaves, family=gmm.family, feature_names=gmm.feature_names) if self else gmm

    def n_parameters(self, gmm: GMM) -> int:
        """How many of the mixture's free parameters aren't free."""
        n_components, n_features = gmm.n_components, gmm.n_features
        of_covariances = get_family(gmm.family).n_covariance_parameters(n_components, n_features)
        n_weights = min(sum(self.weights), n_components - 1)
        return n_weights + sum(self.means) * n_features + sum(self.covariances) * of_covariances // n_components

    @property
    def in_words(self) -> str:
        """Such as "all weights, means of 0, 2"."""

        def one(name: str) -> str:
            if self.equal and name == "weights":
                return "equal weights"
            which = np.flatnonzero(getattr(self, name)).tolist()
            return f"all {name}" if self.whole(name) else f"{name} of {', '.join(map(str, which))}"

        return ", ".join(one(name) for name in PARAMETERS if getattr(self, name))


FREE = Held()  # nothing is held

type Fixed = Sequence[str] | Mapping[str, str | ArrayLike] | Held


def check_fixed(fixed: Any, n_components: int, family: str) -> Held:
    """What of a mixture of this many components is to be held.

    Args:
        fixed: names of parameters; or a mapping from names to "all", (K,) flags, or the numbers of components, and from
            "weights" to "equal", too.
        n_components: K.
        family: of the covariances.

    Raises:
        TypeError: neither; flags or numbers of another kind.
        ValueError: an unknown name, flags of another length, components that there aren't, some covariances of a family whose
            components share something of them.

    Example:
        >>> from jaxgmm.model.holding import check_fixed
        >>> check_fixed({"means": [0, 2], "weights": "all"}, 3, "full").in_words
        'all weights, means of 0, 2'
        >>> check_fixed({"weights": "equal"}, 3, "full").in_words
        'equal weights'
    """
    if isinstance(fixed, Held):
        fixed = {name: getattr(fixed, name) for name in PARAMETERS if getattr(fixed, name)} | (
            {"weights": EQUAL} if fixed.equal else {}
        )
    if isinstance(fixed, str):
        fixed = (fixed,)
    if not isinstance(fixed, Mapping | Sequence):
        raise UserTypeError(
            f"fixed must be names of parameters, such as ('means',), or say of which components, such as {{'means': [0]}}; "
            f"got {type(fixed).__name__}."
        )
    named = fixed if isinstance(fixed, Mapping) else dict.fromkeys(fixed, ALL)
    for name in named:
        if name not in PARAMETERS:
            raise unknown("parameter in fixed", name, PARAMETERS)
    equal = isinstance(named.get("weights"), str) and named["weights"] == EQUAL
    named = {**named, "weights": ALL} if equal else named
    held = Held(**{name: _flags(name, which, n_components) for name, which in named.items()}, equal=equal)
    if sum(held.weights) == n_components - 1:  # what is left is the last one's
        held = dataclasses.replace(held, weights=(True,) * n_components if held.weights else ())
    if held.covariances and not held.whole("covariances") and not get_family(family).separate:
        raise UserError(
            f"fixed holds covariances of some components, but those of family {family!r} have something in common: hold "
            f"{ALL!r} of them or none, or take a family without, such as 'full'."
        )
    return held


def _flags(name: str, which: Any, n_components: int) -> tuple[bool, ...]:
    """A flag for each component; none where none is raised."""
    if isinstance(which, str):
        if which != ALL:
            or_equal = f", {EQUAL!r}" if name == "weights" else ""
            raise UserError(f"fixed has {name!r}: {which!r}, which isn't {ALL!r}{or_equal}, flags, or numbers of components.")
        return (True,) * n_components
    values: Array | np.ndarray = np.atleast_1d(np.asarray(which))
    if values.ndim != 1 or (values.size and values.dtype.kind not in "biu"):
        raise UserTypeError(
            f"fixed has {name!r}: {which!r}; {ALL!r}, ({n_components},) flags, or whole numbers of components are needed."
        )
    if values.dtype == bool:
        if values.shape != (n_components,):
            raise UserError(
                f"fixed has {values.size} flags for {name!r}, but there are {n_components} components: a flag for each, "
                f"their numbers, or {ALL!r}."
            )
        flags = values
    else:
        outside = [int(k) for k in values if not 0 <= k < n_components]
        if outside:
            raise UserError(f"fixed has component {outside[0]} for {name!r}, but components are 0 to {n_components - 1}.")
        flags = np.isin(np.arange(n_components), values)
    return tuple(flags.tolist()) if flags.any() else ()
