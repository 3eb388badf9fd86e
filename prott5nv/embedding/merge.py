"""Shards of one input, embedded by many processes, into the file that one process would have written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from prott5nv.embedding.formats import check_suffix, write_output
from prott5nv.embedding.store import EmbeddingStore, StoredProtein
from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import whole_file


def merge(shards: Sequence[str | os.PathLike], output: str | os.PathLike) -> int:
    """Join the files of ``prott5nv embed --shard 1/N`` to ``N/N``.

    Parameters
    ----------
    shards : sequence of str or PathLike
        All N of them, in any order; they are left as they are.
    output : str or PathLike
        Appears when it is complete; ``.npz`` or ``.parquet`` for pooled vectors, HDF5 by any other name.

    Returns
    -------
    int
        Proteins written.

    Raises
    ------
    ProtT5nvError
        If one is missing or there twice, they are not of one input and one set of settings, or the output exists.
    """
    output = Path(output)
    if output.exists():
        raise ProtT5nvError(f"{output} exists: delete it or choose another name")
    stores = _in_order([EmbeddingStore(path) for path in shards])
    check_suffix(output, stores[0].attributes["pooling"])
    attributes = {name: value for name, value in stores[0].attributes.items() if name != "shard"}
    with whole_file(output) as temporary:
        write_output(temporary, _proteins(stores), attributes)
    return sum(len(store) for store in stores)


def _in_order(stores: list[EmbeddingStore]) -> list[EmbeddingStore]:
    numbered: dict[int, EmbeddingStore] = {}
    count = None
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
            raise ProtT5nvError(f"{store.path} and {stores[0].path} are of different numbers of shards")
    missing = [f"{number}/{count}" for number in range(1, (count or 0) + 1) if number not in numbered]
    if missing or not count:
        raise ProtT5nvError(f"shards are missing: {', '.join(missing) or 'all'}")
    return [numbered[number] for number in sorted(numbered)]


def _proteins(stores: list[EmbeddingStore]) -> Iterator[StoredProtein]:
    for store in stores:
        for key, rows in store.items():
            yield StoredProtein(key, store.original_id(key), store.truncated_from(key), rows)
