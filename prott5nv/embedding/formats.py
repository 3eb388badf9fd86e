"""What a run writes: the format that a file's name asks for.

HDF5 holds rows of residues and pooled vectors alike. For pooled vectors there are also NumPy's ``.npz``, one array of
shape (D,) per accession, with the attributes as JSON in the archive's comment; and ``.parquet``, with the columns
``accession``, ``original_id``, ``truncated_from`` and ``embedding``, and the attributes in the schema.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from prott5nv.errors import ProtT5nvError
from prott5nv.io.parquet import pyarrow_parquet

if TYPE_CHECKING:
    from prott5nv.embedding.store import StoredProtein

_PROTEINS_PER_ROW_GROUP = 1000


def check_suffix(output: Path, pooling: str | None) -> None:
    """Refuse, before anything is computed, a format that cannot hold the result."""
    if output.suffix in (".npz", ".parquet") and pooling in (None, "none"):
        raise ProtT5nvError(f"{output}: {output.suffix} is for pooled vectors; choose pooling mean, or a name in .h5")
    if output.suffix == ".parquet":
        pyarrow_parquet()


def skipped_listing(output: Path) -> Path:
    """The table of the proteins that an output lacks, beside it: line, id and reason."""
    return output.with_suffix(".skipped.tsv")


def workers_folder(output: Path) -> Path:
    """Where the processes of ``--workers N`` keep their shards."""
    return output.with_name(output.name + ".workers")


def write_output(path: Path, proteins: Iterable[StoredProtein], attributes: Mapping[str, str]) -> None:
    """Write a whole file in the format of its name."""
    if path.suffix == ".npz":
        _write_npz(path, proteins, attributes)
    elif path.suffix == ".parquet":
        _write_parquet(path, proteins, attributes)
    else:
        from prott5nv.embedding.store import write_embeddings

        write_embeddings(path, proteins, attributes)


def read_attributes(path: Path) -> dict[str, str]:
    """What holds for a whole file: model, precision, pooling ..."""
    if path.suffix not in (".npz", ".parquet"):
        from prott5nv.embedding.store import EmbeddingStore

        with EmbeddingStore(path) as store:
            return store.attributes
    try:
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                return json.loads(archive.comment)
        metadata = pyarrow_parquet().read_schema(path).metadata or {}
        return {name.decode(): value.decode() for name, value in metadata.items()}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ProtT5nvError(f"{path}: not a file of embeddings ({error}); delete it or choose another name") from None


def _write_npz(path: Path, proteins: Iterable[StoredProtein], attributes: Mapping[str, str]) -> None:
    import numpy as np

    with zipfile.ZipFile(path, "w") as archive:
        for protein in proteins:
            with archive.open(f"{protein.key}.npy", "w") as file:
                np.lib.format.write_array(file, protein.rows)
        archive.comment = json.dumps(dict(attributes)).encode()


def _write_parquet(path: Path, proteins: Iterable[StoredProtein], attributes: Mapping[str, str]) -> None:
    import numpy as np
    import pyarrow

    iterator, writer = iter(proteins), None
    while group := list(islice(iterator, _PROTEINS_PER_ROW_GROUP)):
        rows_ND = np.stack([protein.rows for protein in group])
        columns = {
            "accession": pyarrow.array([protein.key for protein in group]),
            "original_id": pyarrow.array([protein.original_id for protein in group]),
            "truncated_from": pyarrow.array([protein.truncated_from for protein in group], pyarrow.int64()),
            "embedding": pyarrow.FixedSizeListArray.from_arrays(rows_ND.ravel(), rows_ND.shape[1]),
        }
        table = pyarrow.table(columns).replace_schema_metadata(dict(attributes))
        writer = writer or pyarrow_parquet().ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is None:
        raise ProtT5nvError(f"{path.name}: a Parquet file needs at least one protein")
    writer.close()
