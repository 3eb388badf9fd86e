"""Joining a folder of Parquet shards, as ``prott5nv embed --ray`` writes it, into one file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from prott5nv.embedding.formats import check_suffix, skipped_listing, write_output
from prott5nv.embedding.keys import KeyRegister, Owner
from prott5nv.embedding.shard_folder import MANIFEST, SKIPPED, Manifest, read_manifest
from prott5nv.embedding.store import EmbeddingStore, StoredProtein
from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import remove_file, together, whole_file
from prott5nv.io.checksum import file_checksum
from prott5nv.io.output import check_no_link, check_outputs, reserved_outputs


def merge_folder(
    folder: str | os.PathLike[str], output: str | os.PathLike[str], *, overwrite: bool = False
) -> Manifest:
    """Join the shards of a folder into the file that a run without Ray would have written.

    Parameters
    ----------
    folder : str or PathLike
        A folder that ``prott5nv embed --ray`` wrote.
    output : str or PathLike
        File to write: ``.npz`` or ``.parquet`` for pooled vectors, HDF5 with any other suffix. The list of skipped
        proteins is copied to ``<output>.skipped.tsv``.
    overwrite : bool, default False
        Whether to replace an existing output.

    Returns
    -------
    Manifest
        The description of the folder.

    Raises
    ------
    ProtT5nvError
        If the folder is not complete, a shard has another checksum than in the manifest, a key is in two shards, an
        embedding has another shape than the others or contains NaN or infinity, or the output exists.
    """
    folder, output = Path(folder), Path(output)
    outputs = [output, skipped_listing(output)]
    with reserved_outputs(outputs, overwrite=overwrite):
        manifest = read_manifest(folder)
        check_suffix(output, manifest.attributes.get("pooling"))
        with together(), whole_file(output) as temporary:
            write_output(temporary, _proteins(folder, manifest), manifest.attributes)
            check_outputs(outputs, overwrite=overwrite)  # another program may have written them in the meantime
            _copy_skipped(folder, manifest, skipped_listing(output))
    return manifest


def _proteins(folder: Path, manifest: Manifest) -> Iterator[StoredProtein]:
    """Check the checksum of each shard, and yield its proteins."""
    register = KeyRegister()
    hidden_size: int | None = None
    for shard in manifest.shards:
        path = folder / shard.name
        with open(path, "rb") as file:
            if file_checksum(file) != shard.sha256:
                raise ProtT5nvError(f"{path}: the file was changed; its checksum is not that in {MANIFEST}")
        with EmbeddingStore(path) as store:
            if len(store) != shard.proteins:
                raise ProtT5nvError(f"{path}: the file has not the {shard.proteins:,} proteins of {MANIFEST}")
            for protein in store.stored_proteins(manifest.attributes.get("pooling"), hidden_size):
                hidden_size = protein.rows.shape[-1]
                if register.claim(protein.key, Owner(shard.name, 0)) is not None:
                    raise ProtT5nvError(f"{path}: {protein.key} is in an earlier shard as well")
                yield protein


def _copy_skipped(folder: Path, manifest: Manifest, listing: Path) -> None:
    if not manifest.skipped:
        remove_file(listing)
        return
    if not (folder / SKIPPED).is_file():
        raise ProtT5nvError(f"{folder / SKIPPED}: the list of skipped proteins is missing")
    check_no_link(listing)
    with whole_file(listing) as temporary:
        shutil.copyfile(folder / SKIPPED, temporary)
