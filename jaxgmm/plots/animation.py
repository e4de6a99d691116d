"""EM at work, step by step."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jaxgmm.data import ArraySource, as_source
from jaxgmm.fitting.arguments import names_in, noise_in, resolve_init
from jaxgmm.fitting.priors import check_alike, named_prior
from jaxgmm.fitting.starts import initialise
from jaxgmm.model.coercion import Mixture
from jaxgmm.model.default_prior import check_name, not_a_prior
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior
from jaxgmm.model.steps import e_step, m_step
from jaxgmm.plots import canvas
from jaxgmm.plots.mixture import draw_density, draw_numbers, draw_scatter
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.validation import check_count, check_key, check_rtol, check_steps

_ROOM = 1.5  # times the histogram's height, for densities


class Player(FuncAnimation):
    """An animation that a notebook plays where it is the last line of a cell; `save("em.gif", writer="pillow")` is a file."""

    def __init__(self, figure: Figure, draw: Callable[[int], None], **options: Any) -> None:
        self.figure = figure
        super().__init__(figure, draw, **options)

    def _repr_html_(self) -> str:
        from matplotlib import pyplot

        page = self.to_jshtml()
        if "inline" in pyplot.get_backend():  # or the last frame would come below it
            pyplot.close(self.figure)
        return page


def animate(
    x: ArrayLike,
    n_components: int | None = None,
    *,
    key: Array,
    family: str = "full",
    prior: Prior | str | None = "default",
    init: str | Mixture = "k-means++",
    rtol: float = 1e-6,
    max_steps: int = 200,
    features: Sequence[int] = (0, 1),
    feature_names: canvas.Names = None,
    max_frames: int = 40,
    interval: float = 200.0,
) -> Player:
    """The course of EM from one start, as `scatter` or, of one feature, `density` draws mixtures.

    A notebook plays it; `.to_jshtml()` is the page, `.save("em.gif", writer="pillow")` a file. At first every step is a frame;
    as steps get smaller, more and more are left out between two.

    Args:
        x: (N, D) data, finite.
        n_components: K; may be left out where `init` is a mixture.
        key: a PRNG key, for the start.
        family: covariance family.
        prior: "default", "fraley-raftery", a `Prior`, or None for maximum likelihood.
        init: "k-means++", "random", or a mixture to start from, whose family is the default then.
        rtol: stop where a step gains less, nats per row.
        max_steps: the most steps.
        features: the two columns to show, where D > 2.
        feature_names: the D axis labels.
        max_frames: the most frames.
        interval: milliseconds between them.

    Returns:
        matplotlib's `FuncAnimation`.

    Raises:
        TypeError, ValueError: bad data, or settings that can't be used; names the argument.

    Example:
        >>> import jax, jaxgmm as jg
        >>> course = jg.plots.animate(jg.datasets.load_faithful().x, 2, key=jax.random.key(0), max_frames=3)
        >>> "<img" in course.to_jshtml()
        True
    """
    check_key(key)
    check_rtol(rtol)
    max_steps, max_frames = check_steps(max_steps), check_count(max_frames, "max_frames", least=2)
    source = as_source(x, min_rows=2, feature_names=names_in(init))
    given, n_components, family = resolve_init(init, n_components, family, source)
    if noise_in(init) is not None:
        raise UserError("init is a fit with noise, which isn't drawn: pass init=fit.gmm.")
    if isinstance(prior, str):
        check_name(prior)
        prior = named_prior(prior, source, n_components, family)
    if not (prior is None or isinstance(prior, Prior)):
        raise not_a_prior(prior, "None")
    if given is None:
        check_alike(prior, "animate from seeds", "a GMM as init")
        given = initialise(x, n_components, key=key, init=str(init), family=family, prior=prior)
    if not isinstance(given, GMM):
        raise UserError("init must be 'k-means++', 'random' or a mixture here, labels and responsibilities are for jaxgmm.fit.")
    states, objective = _climb(source, given, prior, rtol, max_steps)
    rows, names = canvas.checked(states[0], source.x, feature_names)
    place = [0] if rows.shape[1] == 1 else list(canvas.two_features(features, rows.shape[1]))
    shown, note = canvas.subsample(rows)
    ax = canvas.new_axes()
    figure = canvas.figure_of(ax)

    def draw(step: int) -> None:
        ax.clear()
        gmm = states[step].marginal(place)
        if len(place) == 1:
            draw_density(ax, gmm, rows[:, 0], None, 1.0)
            ax.set_ylim(top=_ROOM * max(bar.get_height() for bar in ax.patches if isinstance(bar, Rectangle)))
        else:
            draw_scatter(ax, gmm, shown[:, place], canvas.owners(canvas.memberships(states[step], shown)))
            draw_numbers(ax, gmm)
            _look_at(ax, rows[:, place])
        ax.set(xlabel=names[place[0]], ylabel=names[place[1]] if len(place) == 2 else "density")
        text = f"EM, step {step} of {len(states) - 1}: objective {objective[step]:.2f}"
        ax.set_title(canvas.title(text, note), loc="left", fontsize="medium")

    draw(0)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # or the panel would move with its ticks
    last = len(states) - 1
    between = np.geomspace(1, max(last, 1), max_frames - 1).round().astype(int)[:-1]
    steps = np.unique(np.array([0, *between, last]).clip(max=last))
    return Player(figure, draw, frames=steps.tolist(), interval=interval)


def _climb(source: ArraySource, start: GMM, prior: Prior | None, rtol: float, max_steps: int) -> tuple[list[GMM], list[float]]:
    """The mixtures from the start on, and the objective of each: log-likelihood and log prior, nats."""
    states: list[GMM] = []
    objective: list[float] = []
    gmm = start
    for _ in range(max_steps + 1):
        statistics = e_step(gmm, source.x)
        value = float(statistics.log_likelihood) + (0.0 if prior is None else float(prior.log_prob(gmm)))
        if not np.isfinite(value):  # collapsed: there is nothing to draw
            break
        states, objective = [*states, gmm], [*objective, value]
        if len(objective) > 1 and value - objective[-2] < rtol * source.total_weight:
            break
        gmm = m_step(statistics, gmm, prior)
    if not states:
        raise UserError("the start has no density: use prior='default', or leave out columns that don't vary or are collinear.")
    return states, objective


def _look_at(ax: Axes, x: np.ndarray) -> None:
    """The rows, whatever ellipses reach to."""
    margin = 0.08 * np.ptp(x, axis=0)
    (left, low), (right, high) = x.min(axis=0) - margin, x.max(axis=0) + margin
    ax.set(xlim=(left, right), ylim=(low, high))
