"""Where a mixture is unsure which component a row comes from."""

from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from jaxgmm.model.asking import Errors
from jaxgmm.model.coercion import Mixture, as_gmm
from jaxgmm.plots import canvas

_SMALL, _LARGE = 8.0, 90.0  # areas of points, points^2


def uncertainty(
    gmm: Mixture,
    x: ArrayLike,
    *,
    features: Sequence[int] = (0, 1),
    feature_names: canvas.Names = None,
    error_covariances: Errors = None,
    ax: Axes | None = None,
) -> Axes:
    """The rows, the larger and darker the less sure their component is: uncertainty 1 - max_k r_nk.

    Of one feature the uncertainty stands against its value; of more, two features span the plane.

    Args:
        gmm: the mixture, or a Fit or what else holds one.
        x: (N, D) data.
        features: the two columns to show, where D > 2.
        feature_names: the D axis labels.
        error_covariances: of the rows' errors of measurement, as for `fit`: by them, too, rows belong to components.
        ax: to draw into; a new figure by default.

    Raises:
        ValueError: bad data, or columns that aren't there.

    Example:
        >>> import jaxgmm as jg
        >>> gmm = jg.GMM([0.5, 0.5], [[0.0, 0.0], [3.0, 0.0]], [1.0, 1.0], "spherical")
        >>> ax = jg.plots.uncertainty(gmm, [[0.0, 0.0], [1.5, 0.0], [3.0, 0.0]])
        >>> ax.get_title(loc="left")
        'Uncertainty: 1 of 3 rows above 0.1'
    """
    holder, gmm = gmm, as_gmm(gmm)
    rows, names = canvas.checked(gmm, x, feature_names)
    r = canvas.memberships(holder, rows, canvas.errors_of(gmm, x, rows, error_covariances))
    owner, doubt = canvas.owners(r), 1 - np.maximum(r.max(axis=1), 1 - r.sum(axis=1))
    above = f"Uncertainty: {int((doubt > 0.1).sum())} of {len(rows)} rows above 0.1"
    ax = ax or canvas.new_axes()
    shown, note = canvas.subsample(np.column_stack([rows, owner, doubt]))
    rows, owner, doubt = shown[:, :-2], shown[:, -2].astype(int), shown[:, -1]
    order = np.argsort(doubt, kind="stable")  # the least sure are drawn last, on top
    classes = len(canvas.active(gmm)) + (r.sum(axis=1) < 1 - 1e-6).any()
    share = np.minimum(doubt[order] / max(1 - 1 / classes, 0.5), 1)  # of the most doubt there can be
    if gmm.n_features == 1:
        ax.vlines(rows[order, 0], 0, doubt[order], colors=[canvas.colour(k) for k in owner[order]], lw=1.5)
        ax.set(xlabel=names[0], ylabel="uncertainty", ylim=(0, 1))
    else:
        i, j = canvas.two_features(features, gmm.n_features)
        colours = [to_rgba(canvas.colour(k), 0.35 + 0.65 * much) for k, much in zip(owner[order], share, strict=True)]
        ax.scatter(rows[order, i], rows[order, j], s=_SMALL + (_LARGE - _SMALL) * share, c=colours, lw=0, rasterized=True)
        ax.set(xlabel=names[i], ylabel=names[j])
    ax.set_title(canvas.title(above, note), loc="left", fontsize="medium")
    return ax
