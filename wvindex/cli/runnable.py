"""Whether a model can be run, and what to do where it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wvindex.errors import UnsupportedModel

if TYPE_CHECKING:
    from wvindex.query.database import Store


def check_runs(db: Store) -> None:
    """Refuse a model that the forward pass does not run, with what to do about it.

    Raises
    ------
    UnsupportedModel, MetadataError
        As `wvindex.infer.Model`; for factors of latent attention, with the command that absorbs them.
    """
    if db.config.mla is not None and db.config.attention_form == "factored":
        bare = db.catalog is None
        remedy = f"`wvindex build {db.path}`" if bare else "build its source again with --mla absorb"
        raise UnsupportedModel(
            "Multi-head Latent Attention is kept as factors here, and runs once it is absorbed into dense "
            f"Q, K and V: {remedy}",
            file=db.path,
        )
    from wvindex.infer.layout import check_runnable

    check_runnable(db)
