"""Where rows come from."""

from jaxgmm.data.source import ArraySource, Source, as_source, fingerprint

__all__ = ["ArraySource", "Source", "as_source", "fingerprint"]
