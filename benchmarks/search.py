"""Measure the search for similar proteins: what finds relatives, how fast it is, and how it compares with libraries.

    python benchmarks/search.py retrieval examples/proteins.fasta examples/families.tsv
    python benchmarks/search.py retrieval families.fasta pfam.tsv --column pfam
    python benchmarks/search.py speed --proteins 1000000 --dimensions 768
    python benchmarks/search.py speed --proteins 100000 --libraries

`retrieval` embeds the labelled proteins of a FASTA file and ranks all others by their similarity to each. A protein of
the same family is a hit. Precision at 1 is the fraction of the proteins whose most similar protein is a hit, and mean
average precision (mAP) averages over the ranks of all hits. Proteins without another member of their family are only
ranked. The table compares poolings, similarities and encoder layers. A centred similarity subtracts the mean of all
vectors first. A whitened one also makes the variances of all directions equal, with a tenth of the mean variance added.

`speed` searches random vectors in a Parquet file. The exact search is compared with the rate of a matmul of its shape
and with the rate at which memory is copied, both measured in the same run. With `--libraries`, FAISS and usearch build
indexes of the same vectors (float16, 16 neighbours, expansions of 128).
"""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from common import argument_parser, describe_machine, print_table

from prott5nv import Embedder, EmbeddingStore, ProtT5
from prott5nv.embedding.formats import write_output
from prott5nv.embedding.metric import Metric
from prott5nv.embedding.search import ExactSearch
from prott5nv.embedding.search_index import build_index
from prott5nv.embedding.store import StoredProtein
from prott5nv.io.delimited import DelimitedTable
from prott5nv.io.progress import Progress
from prott5nv.io.reader import read_records
from prott5nv.io.record import Record, accession
from prott5nv.io.source import open_source

T = TypeVar("T")

RESIDUES_PER_BATCH = 2048


def labelled_proteins(fasta: str, table: str, column: str | None) -> tuple[list[Record], list[str]]:
    """Return the proteins of a FASTA file that a table labels, and their labels. Accessions are in the first column."""
    with open_source(table) as stream:
        rows = DelimitedTable(stream, table)
        index = rows.columns.index(column) if column else 1
        label_of = {cells[0]: cells[index] for _, cells in rows}
    records = [record for record in read_records(fasta) if accession(record.id) in label_of]
    return records, [label_of[accession(record.id)] for record in records]


def batches(records: list[Record], limit: int) -> Iterator[list[int]]:
    """Yield the numbers of proteins of similar length, with about `RESIDUES_PER_BATCH` residues together."""
    batch: list[int] = []
    size = 0
    for number in sorted(range(len(records)), key=lambda number: len(records[number].sequence)):
        length = min(limit, len(records[number].sequence))
        if batch and size + length > RESIDUES_PER_BATCH:
            yield batch
            batch, size = [], 0
        batch.append(number)
        size += length
    yield batch


def pooled_layers(model: ProtT5, records: list[Record]) -> dict[str, dict[str, np.ndarray]]:
    """Return pooled rows by layer and pooling, of shape (N, D). Long proteins are truncated."""
    limit = model.config.max_residues
    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: outputs.__setitem__(name, output)

    layers = list(model.encoder.get_submodule("layers").children())
    for number, layer in enumerate(layers[:-1], 1):
        layer.register_forward_hook(keep(f"{number} of {len(layers)}"))
    pooled: dict[str, dict[str, np.ndarray]] = {}
    with Progress(len(records), "proteins") as progress, torch.inference_mode():
        for batch in batches(records, limit):
            tokens, cu_seqlens = model.tokenizer.encode_batch([records[n].sequence[:limit] for n in batch])
            outputs["last"] = model.encode(torch.from_numpy(tokens), torch.from_numpy(cu_seqlens))
            for name, hidden_TD in outputs.items():
                of_layer = pooled.setdefault(
                    name, {pooling: np.empty((len(records), hidden_TD.shape[1])) for pooling in ("mean", "max")}
                )
                for number, rows_LD in zip(batch, hidden_TD.split(np.diff(cu_seqlens).tolist()), strict=True):
                    of_layer["mean"][number] = rows_LD.mean(0)
                    of_layer["max"][number] = rows_LD.amax(0)
            progress.update(len(batch))
    for of_layer in pooled.values():
        parts = [normalized(centred(of_layer[pooling])) for pooling in ("mean", "max")]
        of_layer["mean+max"] = np.concatenate(parts, axis=1)
    return pooled


def normalized(x_ND: np.ndarray) -> np.ndarray:
    return x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)


def centred(x_ND: np.ndarray) -> np.ndarray:
    return x_ND - x_ND.mean(axis=0)


def whitened(x_ND: np.ndarray) -> np.ndarray:
    x_ND = centred(x_ND)
    variances_D, directions_DD = np.linalg.eigh(x_ND.T @ x_ND / len(x_ND))
    return x_ND @ directions_DD / np.sqrt(variances_D + 0.1 * variances_D.mean())


SIMILARITIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "cosine": lambda x_ND: x_ND,
    "centred cosine": centred,
    "whitened cosine": whitened,
}


def retrieval(x_ND: np.ndarray, labels: list[str]) -> tuple[float, float]:
    """Return precision at 1 and mean average precision of the ranking by cosine similarity."""
    x_ND = normalized(x_ND)
    labels_N = np.array(labels)
    precisions, averages = [], []
    for number, similarities_N in enumerate(x_ND @ x_ND.T):
        others_N = np.arange(len(labels)) != number
        is_hit_N = (labels_N == labels_N[number])[others_N]
        if not is_hit_N.any():
            continue
        hit_by_rank_N = is_hit_N[np.argsort(-similarities_N[others_N], kind="stable")]
        ranks_H = np.flatnonzero(hit_by_rank_N) + 1
        precisions.append(float(hit_by_rank_N[0]))
        averages.append(float((np.arange(1, len(ranks_H) + 1) / ranks_H).mean()))
    return float(np.mean(precisions)), float(np.mean(averages))


def measure_retrieval(options: Namespace) -> None:
    """Print the table of `retrieval`."""
    records, labels = labelled_proteins(options.proteins, options.labels, options.column)
    embedder = Embedder(options.model, device="cpu", precision="fp32")
    counts = [labels.count(label) for label in labels]
    queries = sum(count > 1 for count in counts)
    print(
        f"{len(records):,} proteins of {len(set(labels)):,} families, {queries:,} of them queries; "
        f"model {embedder.label}\n"
    )
    pooled = pooled_layers(embedder.network, records)
    rows = (
        [layer, pooling, name, *(f"{value:.3f}" for value in retrieval(transform(x_ND), labels))]
        for layer, of_layer in sorted(pooled.items())
        for pooling, x_ND in of_layer.items()
        for name, transform in SIMILARITIES.items()
        if pooling != "mean+max" or name != "cosine"  # its parts are centred
    )
    print_table(["layer", "pooling", "similarity", "precision at 1", "mAP"], rows)


def write_random_store(path: Path, proteins: int, dimensions: int) -> None:
    """Write vectors that vary most in a few directions, as embeddings do, around a centre for each 50 of them."""
    rng = np.random.default_rng(0)
    spread_D = (np.arange(1, dimensions + 1) ** -0.5).astype(np.float32)
    centres_CD = rng.standard_normal((max(1, proteins // 50), dimensions), dtype=np.float32) * spread_D

    def stored() -> Iterator[StoredProtein]:
        for start in range(0, proteins, 1000):
            chosen_N = rng.integers(len(centres_CD), size=min(1000, proteins - start))
            noise_ND = rng.standard_normal((len(chosen_N), dimensions), dtype=np.float32) * spread_D
            for number, vector_D in enumerate(centres_CD[chosen_N] + 0.7 * noise_ND, start):
                yield StoredProtein(f"Q{number:07}", f"Q{number:07}", None, vector_D)

    write_output(path, stored(), {"pooling": "mean"})


def timed(work: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def rate_of_matmul(queries: int, dimensions: int) -> float:
    """Return the operations per second of a matmul of the shape that the exact search has, the best of three."""
    left, right = (np.random.default_rng(0).random((rows, dimensions), np.float32) for rows in (queries, 2000))
    seconds = min(timed(lambda: [left @ right.T for _ in range(20)])[0] for _ in range(3))
    return 40 * queries * 2000 * dimensions / seconds


def rate_of_copying() -> float:
    """Return the bytes per second that are read when an array of 1 GiB is copied, the best of three."""
    source, target = np.ones(1 << 28, np.float32), np.empty(1 << 28, np.float32)
    return source.nbytes / min(timed(lambda: np.copyto(target, source))[0] for _ in range(3))


def recall(found: Iterable[Iterable[str]], exact: Iterable[Iterable[str]]) -> float:
    """Return the fraction of the exact neighbours that were found."""
    return float(np.mean([len(set(a) & set(b)) / len(set(b)) for a, b in zip(found, exact, strict=True)]))


def faiss_rows(x_ND: np.ndarray, queries_QD: np.ndarray, folder: Path) -> Iterator[tuple[str, float, float, Path, Any]]:
    """Yield name, seconds to build, seconds to search, file and result of two indexes of FAISS."""
    import faiss

    count, dimensions = x_ND.shape
    lists = round(2 * np.sqrt(count))
    flat = faiss.IndexFlatIP(dimensions)
    half: Any = faiss.ScalarQuantizer.QT_fp16
    coarse = faiss.IndexIVFScalarQuantizer(flat, dimensions, lists, half, faiss.METRIC_INNER_PRODUCT)
    graph = faiss.IndexHNSWSQ(dimensions, half, 16, faiss.METRIC_INNER_PRODUCT)
    coarse.nprobe, graph.hnsw.efConstruction, graph.hnsw.efSearch = 16, 128, 128
    for name, index in (("FAISS, lists", coarse), ("FAISS, HNSW", graph)):
        build, _ = timed(lambda index=index: (index.train(x_ND), index.add(x_ND)))  # type: ignore[misc]
        search, (_, rows_QK) = timed(lambda index=index: index.search(queries_QD, 10))  # type: ignore[misc]
        faiss.write_index(index, str(folder / "faiss"))
        yield name, build, search, folder / "faiss", rows_QK


def usearch_rows(
    x_ND: np.ndarray, queries_QD: np.ndarray, folder: Path
) -> Iterator[tuple[str, float, float, Path, Any]]:
    """Yield the same of an index of usearch."""
    from usearch.index import Index

    index = Index(
        ndim=x_ND.shape[1], metric="ip", dtype="f16", connectivity=16, expansion_add=128, expansion_search=128
    )
    build, _ = timed(lambda: index.add(np.arange(len(x_ND)), x_ND))
    search, matches = timed(lambda: index.search(queries_QD, 10))
    index.save(str(folder / "usearch"))
    yield "usearch, HNSW", build, search, folder / "usearch", matches.keys


def measure_speed(options: Namespace) -> None:
    """Print the tables of `speed`."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "store.parquet"
        write_random_store(path, options.proteins, options.dimensions)
        print(f"{options.proteins:,} vectors of {options.dimensions} numbers; {describe_machine()}\n")
        with EmbeddingStore(path) as store:
            measure_exact(store, options)
            measure_indexes(store, options, Path(folder))


def measure_exact(store: EmbeddingStore, options: Namespace) -> None:
    copying = rate_of_copying()

    def rows() -> Iterator[list[str]]:
        for queries in (1, 1000):
            queries_QD = next(vectors_ND for _, vectors_ND in store.blocks())[:queries]
            searchable = ExactSearch(store)
            seconds, _ = timed(lambda q=queries_QD, s=searchable: s.search(q, 10, lambda pairs: None))  # type: ignore[misc]
            operations = 2 * queries * options.proteins * options.dimensions
            size = 4 * options.proteins * options.dimensions
            matmul = rate_of_matmul(queries, options.dimensions)
            yield [
                f"{queries:,}",
                f"{seconds:.1f}",
                f"{operations / seconds / matmul:.0%}",
                f"{size / seconds / copying:.0%}",
            ]

    print_table(["queries", "exact search, s", "of the matmul rate", "of the memory bandwidth"], rows())
    print()


def measure_indexes(store: EmbeddingStore, options: Namespace, folder: Path) -> None:
    """Compare the index of this package with those of libraries that are installed, for one query at a time."""
    queries_QD = np.concatenate([vectors_ND[:1] for _, vectors_ND in store.blocks()])[:200]
    exact = ExactSearch(store).search(queries_QD, 10, lambda pairs: None).rows_QK.tolist()
    size = 4 * options.proteins * options.dimensions

    def rows() -> Iterator[list[str]]:
        build, index = timed(lambda: build_index(folder / "own.index", store))
        search, ranking = timed(lambda: index.search(queries_QD, 10, lambda pairs: None))
        results = [("this package, lists", build, search, folder / "own.index", ranking.rows_QK)]
        x_ND = np.concatenate([Metric().unit(vectors_ND) for _, vectors_ND in store.blocks()])
        prepared_QD = Metric().unit(queries_QD)
        libraries = (faiss_rows, usearch_rows) if options.libraries else ()
        for name, build, search, file, rows_QK in chain(results, *(of(x_ND, prepared_QD, folder) for of in libraries)):
            yield [
                name,
                f"{build:.0f}",
                f"{1000 * search / len(queries_QD):.1f}",
                f"{recall(rows_QK.tolist(), exact):.3f}",
                f"{file.stat().st_size / size:.2f}",
            ]

    print_table(["index", "build, s", "per query, ms", "recall@10", "size of the file / vectors"], rows())


def main() -> None:
    parser = argument_parser(__doc__)
    commands = parser.add_subparsers(required=True)
    retrieval_parser = commands.add_parser("retrieval")
    retrieval_parser.add_argument("proteins", help="FASTA file")
    retrieval_parser.add_argument("labels", help="TSV or CSV table whose first column has the accessions")
    retrieval_parser.add_argument("--column", help="column of the labels; by default the second")
    retrieval_parser.add_argument("--model", help="checkpoint; by default the built-in model")
    retrieval_parser.set_defaults(measure=measure_retrieval)
    speed_parser = commands.add_parser("speed")
    speed_parser.add_argument("--proteins", type=int, default=1_000_000)
    speed_parser.add_argument("--dimensions", type=int, default=768)
    speed_parser.add_argument("--libraries", action="store_true", help="also measure FAISS and usearch")
    speed_parser.add_argument("--folder", help="folder for temporary files")
    speed_parser.set_defaults(measure=measure_speed)
    options = parser.parse_args()
    options.measure(options)


if __name__ == "__main__":
    main()
