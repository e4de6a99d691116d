"""Mixtures in files: `load` reads what `GMM.save` wrote."""

import json
from pathlib import Path
from typing import Any

from jaxgmm.model.mixture import FORMAT, GMM, KIND, PARAMETERS
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.files import DamagedFileError, read_arrays
from jaxgmm.tools.validation import check_path


def load(path: str | Path) -> GMM:
    """Read a mixture that `GMM.save` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a mixture, cut short, of a newer format, or with parameters that aren't a mixture's.

    Example:
        >>> import jaxgmm as jg, tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "gmm.npz"
        >>> jg.load(jg.GMM([1.0], [[0.0]], [1.0], "spherical").save(path)).family
        'spherical'
    """
    path = check_path(path)
    try:
        arrays, (header,) = read_arrays(path, "header")
        leaves: dict[str, Any] = {name: arrays[name] for name in PARAMETERS}
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {path}") from None
    except (DamagedFileError, KeyError) as error:
        raise UserError(
            f"{path} is not a whole jaxgmm mixture ({error}): it may be cut short, or of another program."
        ) from None
    if not isinstance(header, dict) or header.get("kind") != KIND:
        raise UserError(f"{path} does not hold a jaxgmm mixture.")
    form, family, names = header.get("format", 0), header.get("family"), header.get("feature_names")
    if not isinstance(form, int) or not isinstance(family, str) or not isinstance(names, list | None):
        raise UserError(f"{path} does not hold a jaxgmm mixture: its header says {json.dumps(header)[:200]}.")
    if form > FORMAT:
        raise UserError(f"{path} has format {form}; this version reads up to {FORMAT}: update jaxgmm.")
    return GMM(**leaves, family=family, feature_names=None if names is None else tuple(names))
