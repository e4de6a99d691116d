"""Names that other libraries have for a thing are errors that say ours. No JAX here: `import jaxgmm` does without."""

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

from jaxgmm.tools.errors import UserTypeError

OF_MIXTURES = {
    "predict_proba": "responsibilities(x)",
    "score_samples": "log_prob(x)",
    "score": "log_prob(x).mean()",
    "labels_": "predict(x)",
    "weights_": "weights",
    "means_": "means",
    "covariances_": "covariances",
    "fit": "jaxgmm.fit(x, n_components, key=key), which returns a new Fit",
}
OF_FITS = OF_MIXTURES | {"converged_": "converged", "n_iter_": "n_steps", "lower_bound_": "objective"}
_KEYWORDS = {
    "covariance_type": "family, such as family='diag'",
    "random_state": "key=jax.random.key(0)",
    "seed": "key=jax.random.key(0)",
    "n_clusters": "n_components",
    "max_iter": "max_steps",
    "tol": "rtol, in nats per unit of weight",
    "reg_covar": "prior='default', which keeps covariances from going singular",
    "init_params": "init",
}
OF_STARTS = dict.fromkeys(("weights_init", "means_init", "precisions_init"), "init, a GMM") | {
    "warm_start": "init, the fit to go on from"
}
_MODULE = {
    "GaussianMixture": "jaxgmm.fit(x, n_components, key=key) fits a mixture, jaxgmm.GMM is one; scikit-learn's estimator: from "
    "jaxgmm.sklearn import GaussianMixture",
    "BayesianGaussianMixture": "jaxgmm.fit_vb(x, n_components, key=key), or scikit-learn's: from jaxgmm.sklearn import "
    "BayesianGaussianMixture",
    "sklearn": "import jaxgmm.sklearn",
}


class Hinting:
    """What says of attributes that it hasn't where they are, if `_elsewhere` knows it."""

    _elsewhere: ClassVar[Mapping[str, str]]

    if not TYPE_CHECKING:  # who checks types takes a class with `__getattr__` for one that has everything

        def __getattr__(self, name: str) -> object:
            kind = type(self)
            hint = f"; use {kind._elsewhere[name]}" if name in kind._elsewhere else ""
            raise AttributeError(f"{kind.__name__!r} object has no attribute {name!r}{hint}", name=name, obj=self)


def no_name(name: str, known: Iterable[str]) -> AttributeError:
    """The error for a name that the package doesn't have."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = _MODULE.get(name, f"did you mean {near[0]!r}?" if near else "")
    return AttributeError(f"module 'jaxgmm' has no attribute {name!r}{'; ' if hint else ''}{hint}")


def keywords[**P, Result](**more: str) -> Callable[[Callable[P, Result]], Callable[P, Result]]:
    """Decorator: scikit-learn's keywords, and `more`, are a TypeError that names ours. Warnings of the function have one frame
    more to their caller.
    """

    def decorate(function: Callable[P, Result]) -> Callable[P, Result]:
        own = inspect.signature(function).parameters
        hints = {name: hint for name, hint in (_KEYWORDS | more).items() if re.split(r"\W", hint)[0] in own}

        @functools.wraps(function)
        def hinting(*args: P.args, **kwargs: P.kwargs) -> Result:
            for name in kwargs:
                if name in hints:
                    raise UserTypeError(f"{function.__name__} has no argument {name!r}; use {hints[name]}.")
            return function(*args, **kwargs)

        return hinting

    return decorate
