"""All numbers of components of one family: fitted as one batch, and scored."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Array

from jaxgmm.comparing.row import Row
from jaxgmm.comparing.scoring import Scored
from jaxgmm.covariance import get_family
from jaxgmm.data.moments import Moments
from jaxgmm.fitting.account import account, in_weight, with_noise
from jaxgmm.fitting.batch import Model, Settings, climb_models, pad
from jaxgmm.fitting.em_step import with_share
from jaxgmm.fitting.noise import Noise
from jaxgmm.fitting.priors import Change, check_alike, resolve_prior
from jaxgmm.fitting.result import USABLE, Fit
from jaxgmm.fitting.status import FitError, Status
from jaxgmm.model.criteria import Scores
from jaxgmm.model.density import WITHOUT_ROWS, Uniform
from jaxgmm.tools.types import on_host

if TYPE_CHECKING:
    from jaxgmm.bayes.variational.bounds import Bound


class Sweep:
    """The models of one family, for rows that are fitted with several weights: all of them, or all but a fold."""

    def __init__(
        self,
        scored: Scored,
        counts: Sequence[int],
        prior: str | Change | None,
        per_weight: float,
        settings: Settings,
        dtype: np.dtype,
        out: np.dtype,
        noise: Noise | None = None,
    ) -> None:
        self.scored, self.noise = scored, noise
        self.counts, self.prior, self.settings = counts, prior, settings
        self.per_weight, self.dtype, self.out = per_weight, dtype, out

    def rows(self, weight: Any, keys: Sequence[Array], folds: np.ndarray | None, data_id: str, elbo: bool) -> list[Row]:
        """The models and what the criteria are made of."""
        fits, moments = self.fit(weight, keys, data_id)
        sums = self.score(fits, weight)
        held_out = None if folds is None else self.held_out(weight, folds, keys)
        bounds = self.bounds(fits, moments, weight) if elbo else {}
        family, rows, total = get_family(self.settings.family), [], moments.total_weight / self.per_weight
        for i, (k, fit) in enumerate(zip(self.counts, fits, strict=True)):
            predictive = None if held_out is None else float(held_out[i])
            n_parameters = family.n_parameters(k, moments.mean.size) + (0 if self.noise is None else self.noise.n_parameters)
            bound = bounds.get(i)
            evidence = bound.log_evidence if bound else np.nan if elbo else None
            scores = Scores(float(sums[i, 0]), float(sums[i, 1]), n_parameters, total, predictive, None, evidence)
            own = bound.elbo if bound else np.nan if elbo else None
            rows.append(Row(family.name, k, fit if isinstance(fit, Fit) else None, _status(fit), scores, None, own))
        return rows

    def fit(self, weight: Any, keys: Sequence[Array], data_id: str) -> tuple[list[Fit | Status], Moments]:
        """A fit for each K; the status instead where there is none."""
        family = self.settings.family
        weight = weight if self.per_weight == 1 else weight * self.per_weight
        data = self.scored.data(weight)
        moments = data.moments(get_family(family).structure.dense, self.dtype)
        n_rows = data.n_present
        possible = [i for i, k in enumerate(self.counts) if k <= n_rows]  # fewer than all, without a fold
        models = {}
        for i in reversed(possible):  # those that take longest first
            k = self.counts[i]
            models[i] = Model(k, resolve_prior(self.prior, moments, k, family), keys[i])
            check_alike(models[i].prior, "compare", "fit(...) of each model, and its bic")
        fits: list[Fit | Status] = [Status.collapsed] * len(self.counts)
        searches = climb_models(list(models.values()), data, moments, self.settings, self.dtype)
        for (i, model), search in zip(models.items(), searches, strict=True):
            try:
                fit = in_weight(account(search, model, self.settings, data, self.out, data_id), self.per_weight)
                fits[i] = fit if self.noise is None else with_noise(fit, search, self.noise)
            except FitError:
                fits[i] = Status(int(np.asarray(search.status)[0]))
        return fits, moments

    def score(self, fits: Sequence[Fit | Status], weight: Any) -> np.ndarray:
        """Weighted sums (len(fits), 2) of log densities, without and with the component; NaN where there is no usable fit."""
        usable = [i for i, fit in enumerate(fits) if _status(fit) in USABLE]
        sums = np.full((len(fits), 2), np.nan)
        if usable:
            padded = [pad(fits[i].gmm, self.counts[-1], self.dtype) for i in usable]  # type: ignore[union-attr]
            padded += padded[:1] * (len(fits) - len(usable))  # one shape whatever fails, one compilation
            stacked, noise = jax.tree.map(lambda *leaves: np.stack(leaves), *padded), None
            if self.noise is not None:
                shares = np.array([fits[i].noise.weight for i in usable], self.dtype)  # type: ignore[union-attr]
                shares = np.concatenate([shares, shares[:1].repeat(len(padded) - len(usable))])
                log_widths = np.tile(self.noise.log_widths.astype(self.dtype), (len(padded), 1))
                noise = Uniform(on_host(np.log(np.maximum(shares, WITHOUT_ROWS))), on_host(log_widths))
                stacked = with_share(stacked, on_host(1 - shares))
            sums[usable] = self.scored.sums(stacked, noise, weight)[: len(usable)]
        return sums

    def bounds(self, fits: Sequence[Fit | Status], moments: Moments, weight: Any) -> "dict[int, Bound]":
        """By the place of the model, the bounds of those that have a usable fit."""
        from jaxgmm.bayes.variational.bounds import bounds_from  # only here: NumPyro takes seconds to import

        usable = {i: fit for i, fit in enumerate(fits) if isinstance(fit, Fit) and fit.status in USABLE}
        if not usable:
            return {}
        data, own = self.scored.data(weight), list(usable.values())
        found = bounds_from(own, data, moments, rtol=self.settings.rtol, max_steps=self.settings.max_steps, dtype=self.dtype)
        return dict(zip(usable, found, strict=True))

    def held_out(self, weight: Any, folds: np.ndarray, keys: Sequence[Array]) -> np.ndarray:
        """Log-likelihood per unit of weight of rows, each from fits to the other folds; NaN where one of them failed."""
        w, total = np.asarray(weight), np.zeros(len(self.counts))
        for fold in range(folds.max() + 1):
            own_keys = [jax.random.fold_in(key, fold) for key in keys]
            fits, _ = self.fit(on_host(np.where(folds == fold, 0, w)), own_keys, "")
            total += self.score(fits, on_host(np.where(folds == fold, w, 0)))[:, 0]
        return total / w.sum()


def _status(fit: Fit | Status) -> Status:
    return fit.status if isinstance(fit, Fit) else fit
