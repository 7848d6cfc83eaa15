"""wvindex: a weight database. Any model checkpoint to an exact, queryable Zarr store."""

from wvindex._version import __version__

__all__ = ["__version__"]
