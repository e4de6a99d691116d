"""What `posterior` is asked, checked before anything is computed."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxgmm.bayes.methods import METHODS, warmed_up
from jaxgmm.bayes.priors.richardson_green import RichardsonGreen
from jaxgmm.covariance import check_unrestricted
from jaxgmm.data import ArraySource, Pieces, Processes, Source, as_source
from jaxgmm.data.placed import Seen
from jaxgmm.fitting.arguments import check_held, names_in, noise_in, source_of
from jaxgmm.fitting.priors import named_prior
from jaxgmm.fitting.result import Fit
from jaxgmm.model.coercion import about_rows, as_gmm
from jaxgmm.model.default_prior import not_a_prior
from jaxgmm.model.holding import FREE, Fixed, Held, check_fixed
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.types import Facts
from jaxgmm.tools.validation import check_count, check_single, unknown


def rows_asked(x: Any, sample_weight: Any, fit: Any, method: str, groups: Sequence[str]) -> ArraySource | Pieces:
    """The rows, checked, in memory or in pieces.

    Raises:
        TypeError, ValueError: rows that can't be used, or not by this method.
    """
    if isinstance(x, Processes):
        raise UserError("x is Processes, but a posterior is drawn by one process: pass x.own, or a scan of all files.")
    if not isinstance(x, Pieces):
        return as_source(x, sample_weight, min_rows=2, feature_names=names_in(fit), missing=True)
    able = [name for name, method in METHODS.items() if method.in_pieces]
    if method not in able:
        raise UserError(
            f"method {method!r} wants all rows in memory, and x comes in pieces: take method={' or '.join(map(repr, able))}."
        )
    if noise_in(fit) is not None:
        raise UserError("fit has noise, and x comes in pieces: pass rows in memory, or fit.gmm, to leave the noise out.")
    if "log_likelihood" in groups:
        raise UserError(
            "groups has 'log_likelihood', a number for each draw and row, but x comes in pieces: leave it out, and compare "
            "models by compare(x), or on rows that were held out, by log_prob of draws."
        )
    pieces = source_of(x, sample_weight, names_in(fit))
    assert isinstance(pieces, Pieces)
    return pieces


def check_options(method: str, options: Facts) -> None:
    """Raises ValueError for an option that the method doesn't have."""
    known = METHODS[method].options
    for name in options:
        if name not in known:
            raise unknown(f"option of method {method!r}:", name, known or ["(none)"])


def held_asked(fixed: Fixed | None, fit: Any, gmm: GMM, method: str, groups: Sequence[str]) -> Held:
    """What is held: as said, or as in the fit that is given.

    Raises:
        TypeError, ValueError: what can't be held, by this method or at all.
    """
    if fixed is None:
        fixed = fit.fixed if isinstance(fit, Fit) else FREE
    held = check_fixed(fixed, gmm.n_components, gmm.family)
    if not held:
        return held
    if not METHODS[method].holds:
        able = ", ".join(name for name, method in METHODS.items() if method.holds)
        raise UserError(
            f"method {method!r} draws all parameters, but {held.in_words} are to be held: take one of {able}, or fixed=()."
        )
    check_held(held, gmm, left=noise_in(fit) is not None)
    if "prior" in groups:
        raise UserError("groups has 'prior', draws from the prior, but what is held isn't drawn from it: leave 'prior' out.")
    return held


def n_warmup_asked(method: str, asked: Any) -> int:
    """Steps of a chain to throw away: as asked, or the method's own number."""
    default = METHODS[method].n_warmup
    if asked is None:
        return default or 0
    if default is None:
        raise UserError(f"n_warmup is for {' and '.join(warmed_up())}, but method is {method!r}.")
    return check_count(asked, "n_warmup", least=0)


def start_and_prior(fit: Any, prior: Any, source: Source, seen: Seen) -> tuple[GMM, Any, str | None]:
    """The mixture to start from, the prior, and the fingerprint of the rows it was fitted to, if known."""
    if isinstance(fit, Fit):
        gmm, fitted_to = about_rows(fit, "posterior", seen.errors, beside_noise=True), fit.fingerprint
        if prior is None and fit.prior is None:
            raise UserError(
                "fit was made with prior=None, maximum likelihood, and has no posterior: pass prior='default' or a Prior."
            )
        prior = fit.prior if prior is None else prior
    else:
        gmm, fitted_to = as_gmm(fit, "fit"), None
        prior = "default" if prior is None else prior
    check_single(gmm.weights, "jg.posterior(x, g, ...)")
    check_unrestricted(gmm.family, "posterior")
    if gmm.n_features != source.n_features:
        raise UserError(f"x has {source.n_features} columns, but fit is of {gmm.n_features} features.")
    weights = np.asarray(gmm.weights)
    if not (weights > 0).all():
        raise UserError(
            f"fit has components of weight 0 ({np.flatnonzero(weights == 0).tolist()}): refit with fewer components."
        )
    if isinstance(prior, str):
        prior = named_prior(prior, source, gmm.n_components, gmm.family)
    if not isinstance(prior, Prior | RichardsonGreen):
        raise not_a_prior(prior, "a RichardsonGreen")
    prior.check_fits(gmm)
    return gmm, prior, fitted_to
