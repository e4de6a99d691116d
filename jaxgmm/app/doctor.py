"""What `jaxgmm doctor` says: versions, devices, precision and cache, and what is missing."""

import importlib.metadata
import os
import platform
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgmm.version import __version__

_LIBRARIES = {
    "": ("jax", "jaxlib", "numpyro", "numpy", "arviz"),
    "cli": ("typer", "rich", "pydantic", "pyarrow", "matplotlib", "h5netcdf", "jinja2"),
    "sklearn": ("scikit-learn",),
    "notebooks": ("nbclient", "ipykernel"),
}


def examine(cache: Path | None) -> dict[str, dict[str, str]]:
    """Facts by group and name, all as text; what is wrong begins with "MISSING" or "WRONG". Extras may be left out.

    Args:
        cache: folder of compiled programs; None if there is none.
    """
    found = {"jaxgmm": {"version": __version__, "python": platform.python_version(), "system": platform.platform(terse=True)}}
    found["libraries"] = {name: _version(name, extra) for extra, names in _LIBRARIES.items() for name in names}
    devices = jax.devices()
    counted = [
        f"{sum(d.device_kind == kind for d in devices)} x {kind}" for kind in dict.fromkeys(d.device_kind for d in devices)
    ]
    found["devices"] = {
        "platform": jax.default_backend(),
        "devices": ", ".join(counted),
        "processors": str(os.cpu_count()),
        "x64 by default": "yes" if jax.config.jax_enable_x64 else "no: jaxgmm computes in float64 on CPUs all the same",
        "float64": _float64(),
    }
    found["cache"] = {"folder": "none: every process compiles anew"}
    if cache is not None:
        kept = _kept()
        found["cache"] = {"folder": f"{cache} ({_size(cache)})", "kept programs": kept}
    return found


def _version(name: str, extra: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"not installed: pip install 'jaxgmm[{extra}]'" if extra else f"MISSING: pip install {name}"


def _float64() -> str:
    """Does the device keep the digits?"""
    with jax.enable_x64(True):
        third = jax.jit(lambda a: (a + 1e-12) - a)(np.float64(1.0))
    return "works" if abs(float(third) - 1e-12) < 1e-15 else f"WRONG: (1 + 1e-12) - 1 gives {float(third):.3g}"


def _kept() -> str:
    """Is a program that was compiled found again?"""
    seen: list[str] = []

    def listen(event: str, **_: Any) -> None:
        seen.append(event)

    jax.monitoring.register_event_listener(listen)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for _ in range(2):
                jax.jit(lambda a: a * 3 + 2)(np.float32(1))
                jax.clear_caches()
    finally:
        jax.monitoring.unregister_event_listener(listen)
    if "/jax/compilation_cache/cache_hits" in seen:
        return "work"
    return f"WRONG: they are not found again{'; ' if said else ''}{'; '.join(str(each.message) for each in said)[:200]}"


def _size(folder: Path) -> str:
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    return f"{len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.0f} MB"
