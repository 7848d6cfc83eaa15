"""Options and arguments that several commands share, named as the library names its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click

Decorated = Callable[..., Any]

PATH: Final = click.Path(readable=False)
"""A path or a URL; whether it can be opened is the library's to say."""

MLA: Final = ("absorb", "keep", "both")
STORAGE: Final = ("keep", "float32", "float16", "bfloat16")


def json_option(command: Decorated) -> Decorated:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)


def config_option(command: Decorated) -> Decorated:
    """Add ``--config``."""
    return click.option(
        "--config",
        type=PATH,
        metavar="FILE",
        help="What model a MaxText checkpoint is: its YAML, or a config.json of Hugging Face.",
    )(command)


def table_options(command: Decorated) -> Decorated:
    """Add ``--sort``, ``--ascending``, ``--columns``, ``--json`` and ``--csv``."""
    for option in (
        click.option(
            "--csv", "as_csv", is_flag=True, help="Print comma-separated values, with a line of names."
        ),
        json_option,
        click.option(
            "--columns", metavar="NAMES", help="These columns, parted by commas, or 'all'; 'key,std,p99_9'."
        ),
        click.option("--ascending", is_flag=True, help="Sort from the least; numbers fall otherwise."),
        click.option("--sort", metavar="COLUMN", help="Sort by a column, whether it is shown or not."),
    ):
        command = option(command)
    return command


def build_options(command: Decorated) -> Decorated:
    """Add what `wvindex.plan` and `wvindex.build` both take."""
    for option in (
        click.option(
            "--fused-mla-lora-proj",
            is_flag=True,
            help="With --mla keep or both: both down-projections as one matrix, fused_qkv_a_proj.",
        ),
        click.option(
            "--absorbed-dtype",
            type=click.Choice(STORAGE[1:]),
            default="float32",
            show_default=True,
            help="Storage of absorbed Q, K and V.",
        ),
        click.option(
            "--dtype",
            type=click.Choice(STORAGE),
            default="keep",
            show_default=True,
            help="Storage of all else; 'keep' stores weights as they come, packed blocks included.",
        ),
        click.option(
            "--mla",
            type=click.Choice(MLA),
            default="absorb",
            show_default=True,
            help="Multi-head Latent Attention as dense Q, K and V, as its factors, or both.",
        ),
    ):
        command = option(command)
    return command


def max_memory_option(default: str, what: str) -> Callable[[Decorated], Decorated]:
    """Add ``--max-memory``."""
    return click.option(
        "--max-memory", default=default, show_default=True, metavar="SIZE", help=f"{what}, such as 512MiB."
    )
