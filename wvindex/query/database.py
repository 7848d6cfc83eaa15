"""Store: a weight database, open for reading. A mapping of standard keys to lazy tensors."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from numpy.typing import NDArray

from wvindex.arch.config import ModelConfig
from wvindex.errors import UnsupportedTokenizer, UsageError
from wvindex.formats.arrays import ArraySpec, RowReader
from wvindex.formats.ledger import LedgerEntry
from wvindex.limits import MAX_JSON_BYTES
from wvindex.query.choice import LayerChoice
from wvindex.query.extensions import extension
from wvindex.query.handle import Handle
from wvindex.query.layers import Layers
from wvindex.query.lazy import Tensor
from wvindex.query.select import Names, Target, standard_order
from wvindex.store.catalog import ArrayEntry, Catalog
from wvindex.store.links import LinkedReader, linked_files
from wvindex.store.metadata import CATALOG_JSON
from wvindex.store.objects import LocalObjects, Objects, ReadStats
from wvindex.store.reader import Check, ChunkReader, open_finished, read_tokenizer, require_check
from wvindex.store.remote import is_path

if TYPE_CHECKING:
    import zarr.abc.store

    from wvindex.inspection.table import Table
    from wvindex.tokenizer import Tokenizer


class Store(Mapping[str, Tensor]):
    """Tensors by standard key, in order: embedding, layers, final norm, head, unmapped.

    ``db[name]`` also answers to aliases (a GGUF name, the source's name, one expert of a stack) and to the
    keys of arrays that were fused into another, and so does ``name in db``; iteration gives the keys alone.

    Parameters
    ----------
    path : str or Path
        What was opened.
    config : ModelConfig
    arrays : mapping of str to (ArraySpec, RowReader)
        By standard key.
    catalog : Catalog, optional
        None where a bare file was opened.
    tokenizer : callable, optional
        Loads the tokenizer when it is first asked for.
    close : callable, optional
        Lets go of what is open.
    stats : ReadStats, optional
        Counts what is read.
    reopen : callable, optional
        Opens it again, also in another process (see `Handle`).
    identity : callable, optional
        Gives what tells it from another one at its path.
    notes : tuple of str
        What is odd about a bare checkpoint's files, though valid.
    ledger : callable, optional
        Gives where a bare checkpoint's tensors are, when that is first asked for.

    Attributes
    ----------
    handle : Handle
        Shared with its tensors. Where it has `reopen`, the store and its tensors can be pickled.
    """

    def __init__(
        self,
        path: str | Path,
        config: ModelConfig,
        arrays: Mapping[str, tuple[ArraySpec, RowReader]],
        *,
        catalog: Catalog | None = None,
        tokenizer: Callable[[], Tokenizer] | None = None,
        close: Callable[[], None] | None = None,
        stats: ReadStats | None = None,
        reopen: Callable[[], Store] | None = None,
        identity: Callable[[], str] | None = None,
        notes: tuple[str, ...] = (),
        ledger: Callable[[], tuple[LedgerEntry, ...]] = tuple,
    ) -> None:
        self.path = path
        self.notes = notes
        self._ledger = ledger
        self.config = config
        self.catalog = catalog
        self.stats = stats
        specs = standard_order(spec for spec, _ in arrays.values())
        self.handle = Handle(path, reopen=reopen, identity=identity)
        self._tensors = {spec.key: Tensor(spec, arrays[spec.key][1], self.handle) for spec in specs}
        self._names = Names(specs)
        self._load_tokenizer = tokenizer
        self._close = close

    def __getitem__(self, name: str) -> Tensor:
        """Give the tensor that answers to `name`.

        Raises
        ------
        KeyNotFound
            If none does; AmbiguousKey if several do.
        """
        return self._tensor(self._names.resolve(name))

    def __contains__(self, name: object) -> bool:
        """Whether exactly one tensor answers to `name`."""
        return isinstance(name, str) and len(self._names.find(name)) == 1

    def __iter__(self) -> Iterator[str]:
        """Give the standard keys, in order."""
        return iter(self._tensors)

    def __len__(self) -> int:
        """Give the number of arrays."""
        return len(self._tensors)

    def __repr__(self) -> str:
        """Give one line."""
        return (
            f"<Store {self.path}: {self.config.model_type}, {len(self)} tensors, {len(self.layers)} layers>"
        )

    def __reduce__(self) -> tuple[Callable[[Handle], Store], tuple[Handle]]:
        """Pickle as its path, to be opened again where it is unpickled, and what tells it from another.

        Raises
        ------
        UsageError
            If it was not opened by a path or a URL.
        StoreClosed
            If it was closed.
        """
        return _unpickled, (self.handle,)

    def __enter__(self) -> Self:
        """Give the store itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close every file. Later reads raise StoreClosed; what was read stays."""
        self.handle.closed = True
        if self._close is not None:
            self._close()

    @cached_property
    def ledger(self) -> tuple[LedgerEntry, ...]:
        """Where each of the source's tensors is; the catalog's, where there is one."""
        return self.catalog.ledger if self.catalog is not None else self._ledger()

    @cached_property
    def layers(self) -> Layers:
        """The layers by number: ``db.layers[12].self_attn.q_proj``."""
        return Layers(self)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, loaded when it is first asked for.

        Raises
        ------
        UnsupportedTokenizer
            If there is none, or it is of a kind that is not known.
        StoreClosed
            If it was not loaded before the store was closed.
        """
        self.handle.require_open()
        if self._load_tokenizer is None:
            raise UnsupportedTokenizer("there is no tokenizer", file=self.path)
        return self._load_tokenizer()

    def select(
        self, pattern: str = "*", *, layer: LayerChoice = None, role: str | None = None
    ) -> list[Tensor]:
        """Give the tensors that a selector means, in order.

        Parameters
        ----------
        pattern : str
            A glob for the key or one of its aliases: ``*.mlp.experts.*``.
        layer : int, range, slice or several of them, optional
            A negative number counts from the end of the forward pass; what reaches beyond the end means
            nothing there.
        role : str, optional
            A glob for what follows the layer in the key: ``self_attn.q_proj``.

        Raises
        ------
        SelectionError
            If `layer` is none of these, or means no layer.
        """
        return [self._tensor(target) for target in self._names.select(pattern, layer=layer, role=role)]

    def frame(
        self,
        table: str = "tensors",
        kind: Literal["auto", "arrow", "pandas"] = "auto",
        *,
        keep: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> Any:
        """Give a whole table of `wvindex.sql` as a ``pyarrow.Table`` or a ``pandas.DataFrame``.

        Parameters and errors are those of `wvindex.frame`: tables are ``tensors``, ``spectra``, ``layers``,
        ``roles``, ``heads``, ``experts``, ``features``, ``channels``, ``rows``, ``stores``, ``config``,
        ``aliases``, ``sources``.
        """
        return extension("frame")(self, table, kind, keep=keep, progress=progress)

    def neighbors(
        self,
        vector: NDArray[Any],
        role: str | None = None,
        *,
        layers: LayerChoice = None,
        k: int = 10,
        metric: Literal["cosine", "dot"] = "cosine",
        progress: Callable[[int, int], None] | None = None,
    ) -> Table:
        """Find the vectors of the residual stream most like one: exactly, and in bounded memory.

        A matrix that reads the stream (embedding, head, router, q, k, v, gate, up) is searched by its rows,
        one that writes to it (o, down) by its columns; experts of a stack alike. A matrix without a known
        role is searched by the side that alone is `hidden_size` long.

        Parameters
        ----------
        vector : array, shape (hidden_size,) or (n, hidden_size)
            Finite. Several are searched for together.
        role : str, optional
            A glob for what follows the layer in the key: ``mlp.gate_proj``. By default every matrix that
            has such vectors; a note names the others.
        layers : int, range, slice or several of them, optional
        k : int
            How many for each vector; fewer where there are no more.
        metric : {"cosine", "dot"}
        progress : callable, optional
            ``progress(bytes_done, bytes_total)``.

        Returns
        -------
        Table
            ``layer``, ``key``, ``expert``, ``row`` or ``column``, ``text`` (the token, of rows of the
            vocabulary), ``score``, best first; of equal scores in the order of the store. With several
            vectors ``query``, the vector's number, first. Scores are exact dot products, rounded once to
            float64 (products of what float32 does not hold are rounded first), a cosine's over the root of
            the product of the squared lengths, rounded likewise. Vectors that hold NaN or infinity are left
            out, and by cosine those that are zero; a note counts them. Evidence from weights alone.

        Raises
        ------
        UsageError
            If `vector` is not finite or, by cosine, zero, `k` is below 1, or a matrix of `role` has no such
            side, or both could be it.
        SelectionError
            If `vector` has another length, there is no such layer, or nothing has that role.
        UnsupportedModel
            If the configuration does not say how wide the residual stream is.
        """
        table: Table = extension("neighbors")(
            self, vector, role, layers=layers, k=k, metric=metric, progress=progress
        )
        return table

    def tokens(
        self,
        vector: NDArray[Any],
        k: int = 10,
        *,
        norm: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> Table:
        """Give the tokens that a vector of the residual stream speaks for and against.

        The logits are ``W_U · (γ ⊙ v)``: the unembedding (the embedding, where tied) times the vector times
        the final norm's weight as it multiplies (for Gemma 1 + w), without the norm's division by the RMS,
        and without soft-capping, which keeps their order.

        Parameters
        ----------
        vector : array, shape (hidden_size,) or (n, hidden_size)
            Finite.
        k : int
            How many at each end.
        norm : bool
            Whether to fold in the final norm's weight; else ``W_U · v``.
        progress : callable, optional
            ``progress(bytes_done, bytes_total)``.

        Returns
        -------
        Table
            ``end`` (``top`` or ``bottom``), ``rank`` from 1, ``token``, ``text`` as the vocabulary spells
            it (None without a tokenizer), ``logit``; of equal logits the lower token first. With several
            vectors ``query`` first. Evidence from weights alone.

        Raises
        ------
        UsageError, SelectionError
            As `neighbors`, or if there is no final norm.
        NonFiniteWeights
            If the final norm's weight is not finite.
        KeyNotFound
            If there is no unembedding.
        """
        table: Table = extension("tokens")(self, vector, k, norm=norm, progress=progress)
        return table

    def describe(
        self,
        text: str,
        *,
        layers: LayerChoice = None,
        k: int = 5,
        writes: int = 5,
        token: Literal["each", "first", "last"] = "each",
        norm: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> Table:
        """Give the features that a token's embedding excites in each layer, and the tokens that these write.

        For a token's embedding e, times the model's embedding multiplier, a layer's input is
        ``x = RMSNorm(e) ⊙ γ`` with the weight of the norm before its MLP, and feature i's activation
        ``act(gate_i · x) * (up_i · x)``, biases included: no attention, nothing of layers before. In a
        mixture of experts the router chooses for x; features of the chosen experts and of shared ones
        compete, their activations times the router's weight. What a feature writes is its column of
        down_proj, with the sign of its activation, through the norm's weight after the branch (Gemma) and
        the unembedding as in `tokens`.

        Parameters
        ----------
        text : str
            Tokenized as it stands, without BOS: for many vocabularies a space before makes another token.
        layers : int, range, slice or several of them, optional
            Of the forward pass.
        k : int
            Features for each token and layer.
        writes : int
            Tokens that each feature writes.
        token : {"each", "first", "last"}
            Which to describe where the text is several; a note names them all.
        norm : bool
            Whether to fold the final norm's weight into what is written.
        progress : callable, optional
            ``progress(bytes_done, bytes_total)``.

        Returns
        -------
        Table
            ``position``, ``token``, ``text``, ``layer``, ``part`` (``mlp``, ``mlp.experts``,
            ``mlp.shared_experts``), ``expert``, ``feature``, ``weight`` (the router's, else 1),
            ``activation``, and lists ``writes``, ``write_tokens``, ``write_logits``; for each token and layer
            by falling magnitude of weight times activation, in float32. Evidence from weights alone.

        Raises
        ------
        UsageError
            If the text is none or has no token, or more than 64, or a count is below 1; SelectionError if
            there is no such layer.
        NonFiniteWeights
            If what an excited feature writes is NaN or infinite.
        UnsupportedModel, UnsupportedTokenizer, KeyNotFound
            If the model or the tokenizer lacks what this takes.
        """
        table: Table = extension("describe")(
            self, text, layers=layers, k=k, writes=writes, token=token, norm=norm, progress=progress
        )
        return table

    def _tensor(self, target: Target) -> Tensor:
        tensor = self._tensors[target.key]
        if target.part is not None:
            return tensor.part(target.part)
        return tensor if target.expert is None else tensor.expert(target.expert)


def _unpickled(handle: Handle) -> Store:
    if handle.opened is None:
        raise UsageError("a store is unpickled with its handle alone", file=handle.path)
    return handle.opened


def open_store(path: str | os.PathLike[str] | zarr.abc.store.Store, *, check: Check = "chunks") -> Store:
    """Open a finished store.

    Parameters
    ----------
    path : path, URL or Zarr store
    check : {"never", "chunks", "always"}
        When checksums are verified: never, whenever a whole chunk is read, or also for a part of one.
        Linked arrays have none; that their file is what it was is seen at every read.

    Raises
    ------
    NotAStore
        If it is missing, something else, or an unfinished build.
    StoreVersionError, CatalogError
        If its catalog cannot be read.
    UnsupportedError
        If it has linked arrays, and is not in a directory.
    """
    require_check(check)
    objects, catalog = open_finished(path)
    try:
        linked = linked_files(objects, catalog)
    except BaseException:
        objects.close()
        raise

    def reader(entry: ArrayEntry) -> RowReader:
        if entry.link is not None:
            return LinkedReader(linked, entry.spec, entry.link)
        return ChunkReader(objects, entry, check=check)

    def close() -> None:
        linked.close()
        objects.close()

    return Store(
        objects.root if isinstance(objects, LocalObjects) else objects.location,
        catalog.config,
        {key: (entry.spec, reader(entry)) for key, entry in catalog.arrays.items()},
        catalog=catalog,
        tokenizer=partial(_tokenizer, objects, catalog),
        close=close,
        stats=objects.stats,
        reopen=partial(open_store, absolute(path), check=check) if is_path(path) else None,
        identity=partial(_identity, objects),
    )


def absolute(path: str | os.PathLike[str]) -> str:
    """Give a path or a URL that means the same in another process."""
    text = os.fspath(path)
    return text if "://" in text else str(Path(text).absolute())


def _identity(objects: Objects) -> str:
    """Give a digest of a store's catalog, which has the checksum of every chunk."""
    return hashlib.sha256(objects.read_file(CATALOG_JSON, MAX_JSON_BYTES) or b"").hexdigest()


def _tokenizer(objects: Objects, catalog: Catalog) -> Tokenizer:
    from wvindex.tokenizer import load_tokenizer

    data = read_tokenizer(objects, catalog)
    if data is None:
        raise UnsupportedTokenizer("the store has no tokenizer", file=objects.location)
    return load_tokenizer(data)
