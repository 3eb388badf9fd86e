"""Joining the shards of one input into the file that a single process would have written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from prott5nv.embedding.formats import check_suffix, skipped_listing, write_output
from prott5nv.embedding.store import EmbeddingStore, StoredProtein
from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import whole_file
from prott5nv.io.output import check_outputs

_SHARDS_NAMED = 10


class Merged(NamedTuple):
    """The result of a merge: numbers of proteins in the output, and of proteins in its list of skipped ones."""

    proteins: int
    skipped: int


def merge(
    shards: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str], *, overwrite: bool = False
) -> Merged:
    """Join the files that ``prott5nv embed --shard 1/N`` to ``N/N`` wrote.

    Parameters
    ----------
    shards : sequence of str or PathLike
        All N shards, in any order. They are not changed. Their lists of skipped proteins, ``<shard>.skipped.tsv``, are
        joined to ``<output>.skipped.tsv``.
    output : str or PathLike
        File to write: ``.npz`` or ``.parquet`` for pooled vectors, HDF5 with any other suffix. It appears when it is
        complete.
    overwrite : bool, default False
        Whether to replace an existing output.

    Returns
    -------
    Merged

    Raises
    ------
    ProtT5nvError
        If a shard is missing or given twice, if the shards differ in input or settings, or if the output exists
        or is a shard.
    """
    output = Path(output)
    check_outputs([output], shards, overwrite=overwrite)
    with ExitStack() as stack:
        stores = _in_order([stack.enter_context(EmbeddingStore(path)) for path in shards])
        check_suffix(output, stores[0].attributes["pooling"])
        skipped = merge_skipped([skipped_listing(store.path) for store in stores], skipped_listing(output))
        attributes = {name: value for name, value in stores[0].attributes.items() if name != "shard"}
        with whole_file(output) as temporary:
            write_output(temporary, _proteins(stores), attributes)
            check_outputs([output], overwrite=overwrite)  # another merge may have finished in the meantime
        return Merged(sum(len(store) for store in stores), skipped)


def merge_skipped(listings: Iterable[Path], output: Path) -> int:
    """Join the tables of skipped proteins of several shards.

    Parameters
    ----------
    listings : iterable of Path
        Tables in the order of the shards. A shard without skipped proteins has no table.
    output : Path
        Table to write. If no shard has a table, a table of an earlier run at this path is removed.

    Returns
    -------
    int
        Number of skipped proteins.

    Raises
    ------
    ProtT5nvError
        If the disk is full.
    """
    existing = [listing for listing in listings if listing.exists()]
    if not existing:
        output.unlink(missing_ok=True)
        return 0
    count = 0
    with whole_file(output) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        for number, listing in enumerate(existing):
            with open(listing, encoding="utf-8", newline="") as part:
                header = next(part)
                if number == 0:
                    file.write(header)
                for line in part:
                    file.write(line)
                    count += 1
    return count


def _in_order(stores: list[EmbeddingStore]) -> list[EmbeddingStore]:
    """Sort shards by their number, after checking that they are complete and belong together."""
    numbered: dict[int, EmbeddingStore] = {}
    count = 0
    for store in stores:
        if "shard" not in store.attributes:
            raise ProtT5nvError(f"{store.path} is not a shard: it was not written with --shard")
        number, count = (int(part) for part in store.attributes["shard"].split("/"))
        if number in numbered:
            raise ProtT5nvError(f"{store.path} and {numbered[number].path} are both shard {number}: give each once")
        numbered[number] = store
        for name in stores[0].attributes.keys() - {"shard"}:
            if store.attributes.get(name) != stores[0].attributes[name]:
                raise ProtT5nvError(
                    f"{store.path} and {stores[0].path} differ in {name}: they are not shards of one run"
                )
        if count != int(stores[0].attributes["shard"].split("/")[1]):
            raise ProtT5nvError(
                f"{store.path} and {stores[0].path} are shards of runs with different numbers of shards"
            )
    if not count:
        raise ProtT5nvError("shards are missing: all")
    if len(numbered) < count:
        # There can be millions of them, so not all are named.
        missing = (f"{number}/{count}" for number in range(1, count + 1) if number not in numbered)
        named = ", ".join(islice(missing, _SHARDS_NAMED))
        more = count - len(numbered) - _SHARDS_NAMED
        raise ProtT5nvError(f"shards are missing: {named}{f' and {more:,} more' if more > 0 else ''}")
    return [numbered[number] for number in sorted(numbered)]


def _proteins(stores: list[EmbeddingStore]) -> Iterator[StoredProtein]:
    for store in stores:
        for key, rows in store.items():
            yield StoredProtein(key, store.original_id(key), store.truncated_from(key), rows)
