"""Joining the shards of one input into the file that a single process would have written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from prott5nv.embedding.formats import check_suffix, skipped_listing, write_output
from prott5nv.embedding.keys import KeyRegister, Owner
from prott5nv.embedding.store import EmbeddingStore, StoredProtein
from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import remove_file, together, whole_file
from prott5nv.io.output import check_no_link, check_outputs, reserved_outputs
from prott5nv.io.source import plain_lines
from prott5nv.io.text import counted

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
        All N shards, in any order. They are not changed. Their lists of skipped proteins, ``<shard>.skipped.tsv``, must
        be beside them, and are joined to ``<output>.skipped.tsv``.
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
        If a shard is missing or given twice, if the list of its skipped proteins is missing or of another length, if
        the shards differ in input or settings, if an embedding has another shape than the others or contains NaN or
        infinity, or if the output exists or is a shard.
    """
    output = Path(output)
    outputs = [output, skipped_listing(output)]
    with reserved_outputs(outputs, shards, overwrite=overwrite):
        ordered = _in_order([_describe(Path(path)) for path in shards])
        check_suffix(output, ordered[0].attributes["pooling"])
        for shard in ordered:
            _check_listing(shard)
        skipped = sum(shard.skipped for shard in ordered)
        with together(), whole_file(output) as temporary:
            write_output(temporary, _proteins(ordered), {**ordered[0].attributes, "skipped": str(skipped)})
            check_outputs(outputs, overwrite=overwrite)  # another program may have written them in the meantime
            merge_skipped([skipped_listing(shard.path) for shard in ordered], skipped_listing(output))
    return Merged(sum(shard.proteins for shard in ordered), skipped)


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
        If the disk is full, or a table is damaged.
    """
    existing = [listing for listing in listings if listing.exists()]
    if not existing:
        remove_file(output)
        return 0
    check_no_link(output)
    count = 0
    with whole_file(output) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        for number, listing in enumerate(existing):
            lines = plain_lines(listing)
            header = next(lines)
            if number == 0:
                file.write(header)
            for line in lines:
                file.write(line)
                count += 1
    return count


class _Shard(NamedTuple):
    """What a shard is, without its embeddings. Thousands of shards are merged, so they are not kept open.

    Attributes
    ----------
    path : Path
        The file.
    number, total : int
        Number of the shard, counted from 1, and number of shards.
    attributes : dict
        Attributes of the merged file.
    proteins, skipped : int
        Numbers of proteins in the file, and of proteins that were skipped.
    """

    path: Path
    number: int
    total: int
    attributes: dict[str, str]
    proteins: int
    skipped: int


def _describe(path: Path) -> _Shard:
    with EmbeddingStore(path) as store:
        attributes = dict(store.attributes)
        shard = attributes.pop("shard", None)
        if shard is None:
            raise ProtT5nvError(f"{path} is not a shard: it was not written with --shard")
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", str(shard))
        skipped = re.fullmatch("[0-9]{1,18}", str(attributes.pop("skipped", None)))
        is_text = all(isinstance(value, str) for value in attributes.values())
        is_ours = is_text and "pooling" in attributes
        if match is None or skipped is None or not 1 <= int(match[1]) <= int(match[2]) or not is_ours:
            raise ProtT5nvError(f"{path} is not a shard that prott5nv embed wrote")
        return _Shard(path, int(match[1]), int(match[2]), attributes, len(store), int(skipped[0]))


def _check_listing(shard: _Shard) -> None:
    """Raise an error unless the list of skipped proteins beside a shard is complete."""
    listing = skipped_listing(shard.path)
    listed = 0
    if listing.exists():
        listed = sum(1 for _ in plain_lines(listing)) - 1  # the first line is the header
    if listed != shard.skipped:
        state = f"has {counted(listed, 'protein')}" if listing.exists() else "is missing"
        raise ProtT5nvError(
            f"{shard.path} lacks {counted(shard.skipped, 'skipped protein')}, and the list of these, {listing}, "
            f"{state}; put the list of this shard there, or embed the shard again"
        )


def _in_order(shards: list[_Shard]) -> list[_Shard]:
    """Sort shards by their number, after checking that they are complete and belong together."""
    if not shards:
        raise ProtT5nvError("shards are missing: all")
    first = shards[0]
    numbered: dict[int, _Shard] = {}
    for shard in shards:
        if shard.number in numbered:
            raise ProtT5nvError(
                f"{shard.path} and {numbered[shard.number].path} are both shard {shard.number}: give each once"
            )
        numbered[shard.number] = shard
        # The same model can have another name on another machine; its checksum is what counts.
        for name in (first.attributes.keys() | shard.attributes.keys()) - {"model_name"}:
            if shard.attributes.get(name) != first.attributes.get(name):
                raise ProtT5nvError(f"{shard.path} and {first.path} differ in {name}: they are not shards of one run")
        if shard.total != first.total:
            raise ProtT5nvError(f"{shard.path} and {first.path} are shards of runs with different numbers of shards")
    if len(numbered) < first.total:
        # There can be millions of them, so not all are named.
        missing = (f"{number}/{first.total}" for number in range(1, first.total + 1) if number not in numbered)
        named = ", ".join(islice(missing, _SHARDS_NAMED))
        more = first.total - len(numbered) - _SHARDS_NAMED
        raise ProtT5nvError(f"shards are missing: {named}{f' and {more:,} more' if more > 0 else ''}")
    return [numbered[number] for number in sorted(numbered)]


def _proteins(shards: list[_Shard]) -> Iterator[StoredProtein]:
    """Yield the proteins of all shards. An accession that occurs twice is an error."""
    register = KeyRegister()
    hidden_size: int | None = None
    for shard in shards:
        with EmbeddingStore(shard.path) as store:
            for line, protein in enumerate(store.stored_proteins(shard.attributes["pooling"], hidden_size), 1):
                hidden_size = protein.rows.shape[-1]
                if register.claim(protein.key, Owner(str(shard.path), line)) is not None:
                    raise ProtT5nvError(
                        f"{shard.path}: {protein.key} is in an earlier shard as well; embed this shard again"
                    )
                yield protein
