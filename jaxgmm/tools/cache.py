"""Compiled programs that outlive their process, in a folder."""

import hashlib
import os
import platform
import warnings
from pathlib import Path

import jax
import jaxlib
from jax.experimental.compilation_cache import compilation_cache

from jaxgmm.tools.errors import UserError


def enable_compilation_cache(folder: str | os.PathLike | None = None) -> Path | None:
    """Keep what JAX compiles in a folder, so that the next process need not compile it again: one line in a notebook.

    It is JAX's own persistent cache, for all of the process's programs, not only this library's; one that is set up already
    stays as it is. Nothing in the folder is ever deleted: delete it whenever you like.

    Args:
        folder: default `jaxgmm/xla` in the user's cache folder, `$XDG_CACHE_HOME` or `~/.cache`. Nobody else should be able to
            write there: what is in it gets executed. Programs are for one build of jaxlib and one kind of processor, so each
            has a folder of its own within.

    Returns:
        The folder that is used; None, with a warning, where the default one can't be written.

    Raises:
        ValueError: a folder that is given and can't be written, or another one than JAX uses already.

    Example:
        >>> import jaxgmm as jg
        >>> jg.enable_compilation_cache()  # doctest: +SKIP
        PosixPath('/home/me/.cache/jaxgmm/xla/0.12.0-x86_64-1c6f8e0b')
    """
    used = jax.config.jax_compilation_cache_dir
    own = None if folder is None else Path(folder).expanduser().absolute() / _kind()
    if used is not None:
        if own is not None and Path(used) != own:
            raise UserError(f"folder is {str(folder)!r}, but JAX keeps what it compiles in {used}: leave folder out.")
        return Path(used)
    try:
        place = _default_folder() / _kind() if own is None else own
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(13, "no permission to write")
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        reason = getattr(error, "strerror", None) or error
        if own is not None:
            raise UserError(f"folder {str(folder)!r} can't be used ({reason}): give one that can be written.") from None
        warnings.warn(f"nothing that is compiled is kept: {_where()} can't be used ({reason}). Give a folder.", stacklevel=2)
        return None
    for name, value in _SETTINGS.items():
        jax.config.update(name, value)
    jax.config.update("jax_compilation_cache_dir", str(place))
    compilation_cache.reset_cache()  # JAX looks for a folder once, when it first compiles
    return place


_SETTINGS = {"jax_persistent_cache_min_compile_time_secs": 0, "jax_persistent_cache_min_entry_size_bytes": -1}


def _default_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxgmm" / "xla"


def _where() -> str:
    try:
        return str(_default_folder())
    except RuntimeError:
        return "the user's cache folder"


def _kind() -> str:
    """Of what compiled programs are for: programs of another build are refused at best, those of another processor crash."""
    features = hashlib.blake2b(f"{platform.processor()} {_processor()}".encode(), digest_size=4)
    return f"{jaxlib.__version__}-{platform.machine()}-{features.hexdigest()}"


def _processor() -> str:
    """What the processor can do, as Linux says; elsewhere JAX's own key has to do."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next((line.partition(":")[2] for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        return ""
