"""File formats of embeddings. The suffix of a file's name chooses the format.

- HDF5 holds one row per residue, or pooled vectors. It is used for every suffix except ``.npz`` and ``.parquet``.
- ``.npz`` is NumPy's archive, for pooled vectors only. It holds one array of shape (D,) per accession, and the
  attributes as JSON in the comment of the archive. The comment of a member has the original id and, after a tab, the
  length of a truncated protein.
- ``.parquet`` is for pooled vectors only. It has the columns ``accession``, ``original_id``, ``truncated_from`` and
  ``embedding``, and the attributes in its schema.

Shapes: N proteins, D hidden size.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from prott5nv.embedding.pooling import POOLINGS
from prott5nv.errors import ProtT5nvError
from prott5nv.io.output import check_format
from prott5nv.io.parquet import pyarrow_parquet

if TYPE_CHECKING:
    from prott5nv.embedding.store import StoredProtein

# Suffixes of the formats. Any other suffix means HDF5, unless it is that of another format.
SUFFIXES = (".h5", ".hdf5", ".npz", ".parquet")

DTYPES = ("float32", "float16")

_PROTEINS_PER_ROW_GROUP = 1000


def is_hdf5(output: Path) -> bool:
    """Return whether the suffix of a file means HDF5."""
    return output.suffix not in (".npz", ".parquet")


def check_suffix(output: Path, pooling: str | None, *, shard: bool = False) -> None:
    """Check, before anything is computed, that the format of the output can hold the result.

    Parameters
    ----------
    output : Path
        File to write.
    pooling : str or None
        Name of the pooling; None or ``"none"`` for one row per residue.
    shard : bool, default False
        Whether the output is one of several shards, which are joined later.

    Raises
    ------
    ProtT5nvError
        If the suffix means a format that is not written, if the format is for pooled vectors only and there is no
        pooling, or if the package that writes it is missing.
    """
    check_format(output, SUFFIXES)
    if not is_hdf5(output) and pooling not in POOLINGS:
        raise ProtT5nvError(
            f"{output}: {output.suffix} is for pooled vectors; choose pooling {' or '.join(POOLINGS)}, or a name "
            "that ends in .h5"
        )
    if not is_hdf5(output) and shard:
        raise ProtT5nvError(
            f"{output}: shards are joined from HDF5 files; choose a name that ends in .h5. The merged file can be "
            f"{output.suffix}"
        )
    if output.suffix == ".parquet":
        pyarrow_parquet()


def skipped_listing(output: Path) -> Path:
    """Return the path of the table that lists the skipped proteins of an output with line, id and reason."""
    return output.with_name(output.name + ".skipped.tsv")


def workers_folder(output: Path) -> Path:
    """Return the folder in which the processes of ``prott5nv embed --workers`` keep their shards."""
    return output.with_name(output.name + ".workers")


def write_output(path: Path, proteins: Iterable[StoredProtein], attributes: Mapping[str, str]) -> None:
    """Write a file of embeddings in the format of its suffix.

    Parameters
    ----------
    path : Path
        File to write. It is written in place, so give it a temporary name.
    proteins : iterable of StoredProtein
        Proteins with unique keys.
    attributes : mapping
        Attributes of the whole file, such as model, precision and pooling.

    Raises
    ------
    ProtT5nvError
        If the format needs at least one protein and there is none.
    OSError
        If the disk is full.
    """
    if path.suffix == ".npz":
        write_npz(path, proteins, attributes)
    elif path.suffix == ".parquet":
        _write_parquet(path, proteins, attributes)
    else:
        from prott5nv.embedding.store import write_embeddings

        write_embeddings(path, proteins, attributes)


def read_attributes(path: Path) -> dict[str, str]:
    """Read the attributes of a file of embeddings, such as model, precision and pooling.

    Parameters
    ----------
    path : Path
        HDF5, ``.npz`` or ``.parquet``.

    Returns
    -------
    dict

    Raises
    ------
    ProtT5nvError
        If the file cannot be read.
    """
    from prott5nv.embedding.store import EmbeddingStore

    with EmbeddingStore(path) as store:
        return store.attributes


def write_npz(destination: Path | BinaryIO, proteins: Iterable[StoredProtein], attributes: Mapping[str, str]) -> None:
    """Write the ``.npz`` format to a file that is new, or to an open one.

    Parameters
    ----------
    destination : Path or file object
    proteins : iterable of StoredProtein
    attributes : mapping of str to str
        Attributes of the whole file.
    """
    import numpy as np

    with zipfile.ZipFile(destination, "w") as archive:
        for protein in proteins:
            member = zipfile.ZipInfo(f"{protein.key}.npy")
            # The id, and the length of a truncated protein. Readers of arrays ignore the comment of a member.
            member.comment = f"{protein.original_id}\t{protein.truncated_from or ''}".encode()
            member.external_attr = 0o644 << 16  # permissions, for programs that unpack the archive
            with archive.open(member, "w") as file:
                np.lib.format.write_array(file, protein.rows)
        archive.comment = json.dumps(dict(attributes)).encode()


def _write_parquet(path: Path, proteins: Iterable[StoredProtein], attributes: Mapping[str, str]) -> None:
    import numpy as np
    import pyarrow

    iterator, writer = iter(proteins), None
    with ExitStack() as stack:
        file = stack.enter_context(open(path, "wb"))  # pyarrow itself opens no path that is not UTF-8
        while group := list(islice(iterator, _PROTEINS_PER_ROW_GROUP)):
            rows_ND = np.stack([protein.rows for protein in group])
            columns = {
                "accession": pyarrow.array([protein.key for protein in group]),
                "original_id": pyarrow.array([protein.original_id for protein in group]),
                "truncated_from": pyarrow.array([protein.truncated_from for protein in group], pyarrow.int64()),
                "embedding": pyarrow.FixedSizeListArray.from_arrays(rows_ND.ravel(), rows_ND.shape[1]),
            }
            table = pyarrow.table(columns).replace_schema_metadata(dict(attributes))
            writer = writer or stack.enter_context(pyarrow_parquet().ParquetWriter(file, table.schema))
            writer.write_table(table)
        if writer is None:
            raise ProtT5nvError(f"{path.name}: a Parquet file needs at least one protein")
