"""Hostile and damaged HDF5 files: stores of embeddings, and predictors of format 1."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from models import load_predictor
from mutants import Outcome, attack, outcome_of, run_attempts

from prott5nv import EmbeddingStore
from prott5nv.embedding.store import StoredProtein, write_embeddings
from prott5nv.plots.projection import pooled_embeddings

SECRET = "/etc/hostname"
_PROTEINS = 12


def write_valid(folder: Path) -> list[Path]:
    """Write stores as this package and others write them: per residue, pooled, compressed, and with old groups."""
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal((5 + number, 8), dtype=np.float32) for number in range(_PROTEINS)]
    ours = [StoredProtein(f"P{n:05}", f"sp|P{n:05}|NAME", None if n % 2 else 700, r) for n, r in enumerate(rows)]
    paths = [folder / f"{name}.h5" for name in ("residues", "pooled", "compressed", "other")]
    write_embeddings(paths[0], ours, {"precision": "fp32", "pooling": "none"})
    write_embeddings(paths[1], [protein._replace(rows=protein.rows.mean(0)) for protein in ours], {"pooling": "mean"})
    with h5py.File(paths[2], "w", libver="latest") as file:
        for number, values in enumerate(rows):
            file.create_dataset(f"P{number}", data=values, compression="gzip", shuffle=True, fletcher32=True)
    with h5py.File(paths[3], "w") as file:
        for number, values in enumerate(rows):
            file[f"P{number}"] = values.astype(np.float16)
            file[f"P{number}"].attrs["original_id"] = f"P{number}"
    return paths


def load_store(path: Path) -> Any:
    """Read everything of a store in the ways that `merge` and `plot` do."""
    with EmbeddingStore(path) as store:
        pooled_embeddings(store)
        proteins = [(k, r.tobytes(), store.original_id(k), store.truncated_from(k)) for k, r in store.items()]
        return store.attributes, proteins


def _reference(file: h5py.File) -> None:
    file.create_dataset("a", (3,), h5py.ref_dtype)[0] = file["P1"].ref


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4, 8), "f4")
    layout[:] = h5py.VirtualSource(SECRET, "x", (4, 8))
    file.create_virtual_dataset("a", layout)


def _same_bytes(file: h5py.File) -> None:
    """A thousand datasets of the same megabyte."""
    first = file.create_dataset("a", data=np.zeros(1 << 18, np.float32))
    for number in range(1000):
        file[f"hard{number}"] = first


def _unknown_filter(file: h5py.File) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((8,))
    plist.set_filter(h5py.h5z.FILTER_SZIP, h5py.h5z.FLAG_OPTIONAL, (0, 8))
    plist.set_filter(32001, h5py.h5z.FLAG_OPTIONAL)
    h5py.h5d.create(file.id, b"a", h5py.h5t.NATIVE_FLOAT, h5py.h5s.create_simple((8,)), plist)


def _many_attributes(file: h5py.File) -> None:
    for number in range(3000):
        file.attrs[f"a{number}"] = "x"


# What a hostile file has besides sound datasets.
HOSTILE: dict[str, Callable[[h5py.File], Any]] = {
    "soft link": lambda file: file.__setitem__("a", h5py.SoftLink("/P1")),
    "soft link to itself": lambda file: file.__setitem__("a", h5py.SoftLink("/a")),
    "external link": lambda file: file.__setitem__("a", h5py.ExternalLink(SECRET, "/x")),
    "external storage": lambda file: file.create_dataset("a", (4, 8), "f4", external=[(SECRET, 0, 128)]),
    "virtual dataset": _virtual,
    "texts": lambda file: file.create_dataset("a", data=["x", "y"], dtype=h5py.string_dtype()),
    "objects of any length": lambda file: file.create_dataset("a", (3,), h5py.vlen_dtype(np.float32)),
    "references": _reference,
    "records": lambda file: file.create_dataset("a", (3,), np.dtype([("x", "f4"), ("y", "i4")])),
    "complex numbers": lambda file: file.create_dataset("a", (3,), np.complex64),
    "opaque bytes": lambda file: file.create_dataset("a", (3,), np.void(3).dtype),
    "named type": lambda file: file.__setitem__("a", np.dtype("f4")),
    "group": lambda file: file.create_group("a"),
    "no values": lambda file: file.create_dataset("a", data=h5py.Empty("f4")),
    "values that are not stored": lambda file: file.create_dataset("a", (1 << 40,), "f4"),
    "chunks that are not stored": lambda file: file.create_dataset("a", (1 << 40,), "f4", chunks=(1 << 20,)),
    "huge chunks": lambda file: file.create_dataset("a", (8,), "f4", chunks=(1 << 29,), maxshape=(None,)),
    "bomb": lambda file: file.create_dataset("a", data=np.zeros(1 << 25, np.float32), compression=1, chunks=(1 << 22,)),
    "the same bytes often": _same_bytes,
    "filter that HDF5 loads": _unknown_filter,
    "attribute of references": lambda file: file.attrs.__setitem__("a", file["P1"].ref),
    "long attribute": lambda file: file.attrs.create("a", np.zeros(1 << 22), dtype="f4"),
    "many attributes": _many_attributes,
    "number as original_id": lambda file: file["P1"].attrs.__setitem__("original_id", 5),
}


def write_hostile(path: Path, name: str) -> None:
    """Write the hostile file of a name in `HOSTILE`."""
    with h5py.File(path, "w", libver="latest") as file:
        for number in range(1, 5):
            file[f"P{number}"] = np.ones((number, 8), np.float32)
        HOSTILE[name](file)


def attack_hostile(folder: Path) -> Outcome:
    """Open each hostile file; all must be refused."""
    paths = [folder / f"{number}.h5" for number in range(len(HOSTILE))]
    for path, name in zip(paths, HOSTILE, strict=True):
        write_hostile(path, name)
    return run_attempts(lambda n, _: outcome_of(lambda: load_store(paths[n]) is None, paths[n]), list(HOSTILE))


def attack_stores(folder: Path, files: int, seed: int) -> Outcome:
    """Open damaged stores."""
    return attack(write_valid(folder), load_store, files, seed)


def attack_predictors(folder: Path, files: int, seed: int) -> Outcome:
    """Open damaged predictors of format 1."""
    example = Path(__file__).parents[2] / "tests" / "flip" / "data" / "predictor_format_1.h5"
    copied = folder / "model.h5"
    copied.write_bytes(example.read_bytes())
    return attack([copied], load_predictor, files, seed)
