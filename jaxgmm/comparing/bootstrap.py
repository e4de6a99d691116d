"""`bootstrap_test`: would K components give such a gain from one more by chance?"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxgmm.fitting.arguments import check_rows_for
from jaxgmm.fitting.fit_groups import fit_groups
from jaxgmm.fitting.group_fits import GroupFits
from jaxgmm.fitting.priors import Change
from jaxgmm.fitting.result import USABLE
from jaxgmm.fitting.status import FitError
from jaxgmm.model.prior import Prior
from jaxgmm.tools.formatting import nats
from jaxgmm.tools.progress import OfProgress
from jaxgmm.tools.reading import Page, Readable, counted
from jaxgmm.tools.validation import check_count, check_key, check_rows, host_only

_LEAST = 19  # replicates, of which none is beyond the statistic in a twentieth of the cases
_USABLE = [status.name for status in USABLE]


@dataclass(frozen=True, eq=False, repr=False)
class BootstrapTest(Readable):
    """Of K components against K + 1.

    Attributes:
        n_components: K.
        statistic: twice the log-likelihood that one more component gains, nats.
        replicates: (B,), the same of data sets that were drawn from the fit of K.
        p_value: the share of them that gain as much, the data themselves counted as one.
    """

    n_components: int
    statistic: float
    replicates: Float[np.ndarray, " B"]
    p_value: float

    def _page(self) -> Page:
        k, more = self.n_components, self.n_components + 1
        least = 1 / (len(self.replicates) + 1)
        p = f"p < {2 * least:.2g}" if self.p_value <= least else f"p = {self.p_value:.2g}"
        typical, high = np.quantile(self.replicates, [0.5, 0.95])
        return Page(
            f"BootstrapTest: {counted(k, 'component')} against {more}: {p}",
            [
                f"twice the log-likelihood gained by one more: {nats(self.statistic)}",
                f"of {len(self.replicates)} sets drawn from the fit of {k}: median {nats(typical)}, 95 % below {nats(high)}",
            ],
        )


def bootstrap_test(
    x: Float[ArrayLike, "N D"],
    n_components: int,
    *,
    key: Array,
    family: str = "full",
    prior: Prior | Change | str | None = "default",
    n_replicates: int = 99,
    n_init: int = 10,
    max_steps: int = 500,
    progress: OfProgress = "auto",
) -> BootstrapTest:
    """Test K components against K + 1 by the likelihood ratio, whose law under K is that of sets drawn from the fit of K.

    The chi-squared law doesn't hold for mixtures, since K + 1 components are K in many ways (McLachlan 1987; mclust's
    `mclustBootstrapLRT`). Each set is fitted as the data are, by `fit_groups`; a test of K + 1 components that weren't found
    has no power, so take no fewer starts than for a fit.

    Args:
        x: (N, D), finite, an array or a frame.
        n_components: K.
        key: a PRNG key.
        family: as for `fit`.
        prior: as for `fit`; "default" and functions are made for each set.
        n_replicates: how many sets are drawn.
        n_init: starts of each fit.
        max_steps: of EM.
        progress: True, a progress bar; "auto", one in a terminal or in Jupyter that appears after two seconds; or a function
            that is called with (starts done, starts in all).

    Returns:
        BootstrapTest; a small `p_value` speaks for more components.

    Raises:
        TypeError, ValueError: arguments that can't be used: named.
        FitError: the data, or a set, can't be fitted.

    Warns:
        FitWarning: fits that did not converge: counted.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> jg.bootstrap_test(x, 1, key=jax.random.key(0), n_replicates=19, n_init=2).p_value
        0.05
    """
    host_only("bootstrap_test", x, key)
    check_key(key)
    k = check_count(n_components, "n_components")
    n_replicates = check_count(n_replicates, "n_replicates", least=_LEAST)
    rows = np.asarray(check_rows(x, "x", min_rows=2), float)
    check_rows_for(k + 1, len(rows))
    key_data, key_sets, key_fits = jax.random.split(key, 3)
    settings: dict[str, Any] = {
        "family": family,
        "prior": prior,
        "n_init": n_init,
        "max_steps": max_steps,
        "progress": progress,
    }
    own = fit_groups(rows[None], n_components=k, key=key_data, **settings)
    _check(own, k)
    sets = [np.asarray(own[0].sample(each, len(rows))[0], float) for each in jax.random.split(key_sets, n_replicates)]
    whole = np.stack([rows, *sets])
    few, more = (fit_groups(whole, n_components=each, key=key_fits, **settings) for each in (k, k + 1))
    for fits, each in ((few, k), (more, k + 1)):
        _check(fits, each)
    statistics = 2 * (more.table["log_likelihood"] - few.table["log_likelihood"]).to_numpy(float)
    found = float(statistics[0])
    return BootstrapTest(k, found, statistics[1:], float((statistics >= found).mean()))


def _check(fits: GroupFits, k: int) -> None:
    """Raises FitError where a set has no fit that can be used."""
    failed = ~fits.table["status"].isin(_USABLE)
    if failed.any():
        raise FitError(
            f"{int(failed.sum())} of {len(failed)} sets of rows can't be fitted with {k} components: "
            f"{fits.table['status'][failed].iloc[0]}. Use a prior, or fewer components."
        )
