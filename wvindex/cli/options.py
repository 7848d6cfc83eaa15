"""Options and arguments that several commands share, named as the library names its parameters."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, Final

import click

from wvindex.cli.slicing import parse_layers

Decorated = Callable[..., Any]

ChosenLayers = list[int | slice] | None
"""What `layers_option` gives."""

PATH: Final = click.Path(readable=False)
"""A path or a URL; whether it can be opened is the library's to say."""

MLA: Final = ("absorb", "keep", "both")
STORAGE: Final = ("keep", "float32", "float16", "bfloat16")


class _Respelled(click.Option):
    """An option with several spellings, of which help shows the first long one."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Give what help says of it."""
        record = super().get_help_record(ctx)
        others = [name for name in self.opts if name.startswith("--")][1:]
        return record and (
            reduce(lambda text, name: text.replace(f", {name}", ""), others, record[0]),
            record[1],
        )


class _Layers(click.ParamType[Any]):
    """A choice of layers, read as `parse_layers` does."""

    name = "layers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read it."""
        return parse_layers(value) if isinstance(value, str) else value


def layers_option(command: Decorated) -> Decorated:
    """Add ``--layer``, also spelled ``--layers``: `ChosenLayers`."""
    return click.option(
        "--layer",
        "--layers",
        "layers",
        cls=_Respelled,
        type=_Layers(),
        metavar="LAYERS",
        help="Of these layers alone: 3, or 3:7 (3 to 6), or 1,4, or -1 (the last).",
    )(command)


def layer_option(command: Decorated) -> Decorated:
    """Add ``--layer``, also spelled ``--layers``: None, or one number."""
    return click.option(
        "--layer",
        "--layers",
        "layer",
        cls=_Respelled,
        type=int,
        metavar="N",
        help="The page of this layer; -1 is the last.",
    )(command)


def out_option(what: str) -> Callable[[Decorated], Decorated]:
    """Add ``-o`` and ``--out``, also spelled ``--output``."""
    return click.option("-o", "--out", "--output", "out", cls=_Respelled, metavar="FILE", help=what)


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


def csv_option(command: Decorated) -> Decorated:
    """Add ``--csv``."""
    return click.option(
        "--csv", "as_csv", is_flag=True, help="Print comma-separated values, with a line of names."
    )(command)


def _added(command: Decorated, *options: Callable[[Decorated], Decorated]) -> Decorated:
    """Add options, the last of which help shows first."""
    return reduce(lambda decorated, option: option(decorated), options, command)


def table_options(command: Decorated) -> Decorated:
    """Add ``--sort``, ``--ascending``, ``--columns``, ``--json`` and ``--csv``."""
    return _added(
        command,
        csv_option,
        json_option,
        click.option(
            "--columns", metavar="NAMES", help="These columns, parted by commas, or 'all'; 'key,std,p99_9'."
        ),
        click.option("--ascending", is_flag=True, help="Sort from the least; numbers fall otherwise."),
        click.option("--sort", metavar="COLUMN", help="Sort by a column, whether it is shown or not."),
    )


def build_options(command: Decorated) -> Decorated:
    """Add what `wvindex.plan` and `wvindex.build` both take."""
    return _added(
        command,
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
    )


def max_memory_option(default: str, what: str) -> Callable[[Decorated], Decorated]:
    """Add ``--max-memory``."""
    return click.option(
        "--max-memory", default=default, show_default=True, metavar="SIZE", help=f"{what}, such as 512MiB."
    )
