"""Posterior trees in netCDF files, whole or not at all."""

import functools
import hashlib
from collections.abc import Buffer
from io import BytesIO
from pathlib import Path
from typing import Literal

import xarray

from jaxgmm.bayes.trees.earlier import as_now
from jaxgmm.bayes.trees.schema import PARAMETERS, encode_facts, require
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.files import DamagedFileError, whole
from jaxgmm.tools.validation import check_path

_HDF5, _MARK = b"\x89HDF\r\n\x1a\n", b"jaxgmm blake2b: "
_digest = functools.partial(hashlib.blake2b, digest_size=16)
_ENGINE: Literal["h5netcdf"] = "h5netcdf"


def save_posterior(tree: xarray.DataTree, path: str | Path) -> Path:
    """Write a posterior to a netCDF file, whole or not at all; ".nc" is added where it's missing. Returns the path.

    A tree of `count_clusters` is one, too: its draws are partitions.

    `az.from_netcdf` reads it, too. It is made in memory first, where it takes as much room again as the tree.

    Raises:
        TypeError, ValueError: not a tree that `posterior` or `count_clusters` returned.
        OSError: the file can't be written, such as on a full disk.
        ImportError: the package h5netcdf or h5py is missing.
    """
    _check(tree, "save_posterior")
    path = check_path(path)
    if path.suffix != ".nc":
        path = path.with_name(path.name + ".nc")
    content = BytesIO()  # HDF5 ends the process where it can't write to a file
    try:
        tree.to_netcdf(content, engine=_ENGINE)
    except ImportError as error:
        raise _missing(error) from None
    with whole(path) as partial, partial.open("wb") as file:
        file.write(content.getbuffer())
        file.write(_seal_of(content.getbuffer()))
    return path


def load_posterior(path: str | Path) -> xarray.DataTree:
    """Read a posterior that `save_posterior` (or `to_netcdf`) wrote, into memory; one of an earlier version as if of this one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that was cut short, isn't netCDF, or doesn't hold a posterior of jaxgmm.
        ImportError: the package h5netcdf or h5py is missing.

    Example:
        >>> import jax, pathlib, tempfile, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> fit = jg.fit(x, n_components=2, key=jax.random.key(0))
        >>> tree = jg.posterior(x, fit, method="gibbs", key=jax.random.key(1), n_draws=50)
        >>> path = jg.save_posterior(tree, pathlib.Path(tempfile.mkdtemp()) / "posterior")
        >>> path.name, jg.load_posterior(path).attrs["method"]
        ('posterior.nc', 'gibbs')
    """
    path = check_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no posterior file {path}")
    try:
        _check_seal(path)
        # phony_dims: plain HDF5 files, refused below, would make xarray warn.
        with xarray.open_datatree(path, engine=_ENGINE, phony_dims="access") as opened:
            tree = opened.load().copy()  # a tree of its own: closing the file doesn't take it away
    except ImportError as error:
        raise _missing(error) from None
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        why = " ".join(str(error).split())
        raise UserError(
            f"{path} is not a whole netCDF file ({why}): it was cut short, damaged, or of another format."
        ) from None
    if tree.attrs.get("creation_library") != "jaxgmm":
        raise UserError(f"{path} does not hold a posterior of jaxgmm: it has no attribute creation_library = 'jaxgmm'.")
    for group in tree.subtree:
        group.attrs = encode_facts(group.attrs)  # plain numbers again, as they were
    tree = as_now(tree)
    _check(tree, f"load_posterior({str(path)!r})")
    return tree


def _seal_of(content: Buffer) -> bytes:
    """A checksum to append. HDF5 reads up to the end that its header tells, so readers of netCDF take the file as it was."""
    return _MARK + _digest(content).digest()


def _check_seal(path: Path) -> None:
    """Look for damage to what was sealed, before HDF5 reads it: from a file with a hole it may never return.

    Raises:
        DamagedFileError: something stands after HDF5's end, but isn't the checksum of what is before.
    """
    with path.open("rb") as file:
        head = file.read(64)
        # Where the superblock tells the end of the file, by its version.
        start = {0: 40, 1: 44, 2: 28, 3: 28}.get(head[8]) if head.startswith(_HDF5) and len(head) == 64 else None
        if start is None:
            return
        end = int.from_bytes(head[start : start + 8], "little")
        if end >= path.stat().st_size:
            return
        digest, left = _digest(), end
        file.seek(0)
        while left:
            part = file.read(min(left, 1 << 20))
            digest.update(part)
            left -= len(part)
        if file.read() != _MARK + digest.digest():
            raise DamagedFileError("its checksum is wrong")


def _check(tree: xarray.DataTree, user: str) -> None:
    require(tree, user)
    if "cluster_count" in tree.children:
        require(tree, user, allocations=("label", "n_clusters", "n_components"))
    else:
        require(tree, user, posterior=PARAMETERS)


def _missing(error: ImportError) -> ImportError:
    return ImportError(f"{error}. Posterior files need h5netcdf and h5py: pip install 'jaxgmm[cli]'.")
