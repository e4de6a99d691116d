"""The table of ways to infer: one row each, which `posterior`, the command line, `diagnose` and the report read.

It imports nothing of the package, so that whoever only asks which methods there are doesn't wait for NumPyro.
"""

import importlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple


class Method(NamedTuple):
    """A way to draw from a posterior.

    Attributes:
        function: "module:name", imported when it is needed. Of a chain, `name(problem, key, schedule, n_chains, **options)`;
            of an approximation, `name(problem, key, n_draws, n_chains, **options)`. Both return `Draws`. An approximation that
            has a keyword `report` is told whom to tell of its progress.
        kind: "chain", judged by r-hat and ESS and kept in checkpoints; or "approximation", judged by Pareto k-hat, if its draws
            have a density.
        n_warmup: steps of a chain that are thrown away unless the caller says how many; None: it has no warm-up.
        options: the keyword arguments that are its own, as the function orders them.
        partly: whether it takes rows however they were seen: with gaps, errors of measurement or labels.
        holds: whether it draws the rest of a mixture of which parts are held.
        in_pieces: as `function`, of a `ProblemInPieces`; None: it wants all rows in memory.
        noise: whether its draws have the share of noise beside the mixture.
    """

    function: str
    kind: Literal["chain", "approximation"]
    n_warmup: int | None = None
    options: tuple[str, ...] = ()
    partly: bool = False
    holds: bool = False
    in_pieces: str | None = None
    noise: bool = False

    def resolve(self) -> Callable[..., Any]:
        """The function itself."""
        return _imported(self.function)

    def resolve_in_pieces(self) -> Callable[..., Any] | None:
        """That of rows that come in pieces, if there is one."""
        return None if self.in_pieces is None else _imported(self.in_pieces)


def _imported(name: str) -> Callable[..., Any]:
    module, function = name.split(":")
    return getattr(importlib.import_module(module), function)


METHODS = {
    "nuts": Method(
        "jaxgmm.bayes.samplers.nuts:nuts",
        "chain",
        500,
        ("target_accept", "max_tree_depth", "dense_mass"),
        partly=True,
        holds=True,
        noise=True,
    ),
    "gibbs": Method(
        "jaxgmm.bayes.samplers.gibbs:gibbs",
        "chain",
        500,
        ("thin",),
        partly=True,
        holds=True,
        in_pieces="jaxgmm.bayes.samplers.gibbs_pieces:gibbs_in_pieces",
        noise=True,
    ),
    "svi": Method(
        "jaxgmm.bayes.samplers.svi:svi",
        "approximation",
        options=("guide", "n_steps", "learning_rate", "batch_size"),
        partly=True,
        holds=True,
        in_pieces="jaxgmm.bayes.samplers.svi_pieces:svi_in_pieces",
        noise=True,
    ),
    "laplace": Method("jaxgmm.bayes.samplers.laplace:laplace", "approximation", partly=True, holds=True, noise=True),
    "vb": Method("jaxgmm.bayes.variational.draws:vb", "approximation", options=("rtol", "max_steps")),
    "sandwich": Method("jaxgmm.bayes.samplers.sandwich:sandwich", "approximation", partly=True, holds=True, noise=True),
    "bootstrap": Method(
        "jaxgmm.bayes.samplers.weighted_likelihood:bootstrap",
        "approximation",
        options=("rtol", "max_steps"),
        holds=True,
    ),
    "weighted-likelihood": Method(
        "jaxgmm.bayes.samplers.weighted_likelihood:weighted_likelihood",
        "approximation",
        options=("rtol", "max_steps"),
        holds=True,
    ),
}


def chains() -> tuple[str, ...]:
    """Names of the Markov chains."""
    return tuple(name for name, method in METHODS.items() if method.kind == "chain")


def approximations() -> tuple[str, ...]:
    """Names of the methods whose draws are independent, but of something else than the posterior."""
    return tuple(name for name, method in METHODS.items() if method.kind == "approximation")


def warmed_up() -> tuple[str, ...]:
    """Names of the methods that have a warm-up."""
    return tuple(name for name, method in METHODS.items() if method.n_warmup is not None)


def methods_with() -> dict[str, tuple[str, ...]]:
    """Of each option that only some methods have, the names of those that have it."""
    options = dict.fromkeys(option for method in METHODS.values() for option in method.options)
    having = {option: tuple(name for name, method in METHODS.items() if option in method.options) for option in options}
    return {"n_warmup": warmed_up()} | having
