"""Save and load mixtures as `.npz`, without pickle."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxgmm.mixture import GMM

FORMAT = 1
_ARRAYS = ("weights", "means", "covariances")


def save(gmm: GMM, path: str | Path) -> Path:
    """Write a mixture to `path`, whole or not at all; ".npz" is added where it's missing."""
    path = Path(path)
    if path.suffix != ".npz":
        path = path.with_name(path.name + ".npz")
    partial = path.with_name(f".{path.name}.partial")
    header = json.dumps({"format": FORMAT, "kind": "jaxgmm.GMM", "family": gmm.family})
    with open(partial, "wb") as file:
        arrays: dict[str, Any] = {name: np.asarray(getattr(gmm, name)) for name in _ARRAYS}
        for name, array in arrays.items():
            if array.dtype.kind != "f":  # bfloat16, which npz can't name
                arrays[name] = array.astype(np.float32)
        np.savez(file, header=np.array(header), **arrays)
    partial.replace(path)
    return path


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
    path = Path(path)
    try:
        # Opened here, since np.load leaves a damaged file open.
        with open(path, "rb") as handle:
            file = np.load(handle, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            with file:
                header = json.loads(str(file["header"]))
                arrays: dict[str, Any] = {name: file[name] for name in _ARRAYS}
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {path}") from None
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} is not a whole jaxgmm mixture ({error}): it may be cut short, or of another program."
        ) from None
    if not isinstance(header, dict) or header.get("kind") != "jaxgmm.GMM":
        raise ValueError(f"{path} does not hold a jaxgmm mixture.")
    if header.get("format", 0) > FORMAT:
        raise ValueError(f"{path} has format {header['format']}; this version reads up to {FORMAT}: update jaxgmm.")
    return GMM(**arrays, family=header.get("family", ""))
