"""``prott5nv search``: find the proteins with the most similar embeddings."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import click

from prott5nv.cli import options
from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import together
from prott5nv.io.inputs import InputFiles, input_files, input_name, parts
from prott5nv.io.record import Record, accession, protein_names
from prott5nv.io.text import counted, printable, shortened

if TYPE_CHECKING:
    import numpy as np

    from prott5nv.embedding.search import Neighbour
    from prott5nv.embedding.search_index import VectorIndex
    from prott5nv.embedding.skips import Skips
    from prott5nv.embedding.store import EmbeddingStore
    from prott5nv.io.cleaning import Cleaning
    from prott5nv.io.progress import Progress

_COLUMNS = ("query", "rank", "protein", "original_id", "similarity", "model")
_INLINE = re.compile("[A-Z]{10,}")
_ENTRY_NAME = re.compile("[A-Z0-9]{1,10}_[A-Z0-9]{1,5}")  # of UniProt
_WIDEST_CELL = 40


@click.command()
@click.argument("query", metavar="QUERY")
@click.option("--in", "store", metavar="STORE", required=True,
              help="Embeddings to search: a file that prott5nv embed wrote, or the folder of embed --ray.")  # fmt: skip
@click.option("-k", "k", type=click.IntRange(1), default=10, show_default=True, metavar="N",
              help="Number of proteins to find for each query.")  # fmt: skip
@click.option("-o", "--output", type=options.NewFile(".csv", ".tsv", stream=True), metavar="FILE",
              help="Table to write: TSV if the name ends in .tsv, otherwise CSV. - is standard output. Without this "
              "option, a table to read is printed.")  # fmt: skip
@click.option("--annotations", metavar="TABLE",
              help="TSV or CSV table about the proteins of STORE, such as one that UniProt offers for download. It has "
              "a header line, and one column with accessions, entry names or full ids. All other columns are added to "
              "the result.")  # fmt: skip
@click.option("--whiten", is_flag=True, help="Subtract the mean of all vectors of STORE first, and make the variances "
              "of all directions equal. This finds more relatives in stores of thousands of proteins.")  # fmt: skip
@click.option("--skip-self", is_flag=True, help="Leave out the protein that has the accession of the query.")
@click.option("--index", type=options.NewFile(".index"), metavar="FILE.index",
              help="Search approximately with an index of STORE. The file is built first if it does not exist, or if "
              "STORE has changed.")  # fmt: skip
@options.cleaning
@options.on_error
@options.overwrite
@options.spreadsheet_safe
@options.model
@options.precision
@options.device
def command(
    query: str,
    store: str,
    k: int,
    output: Path | None,
    annotations: str | None,
    whiten: bool,
    skip_self: bool,
    index: Path | None,
    cleaning: Cleaning,
    on_error: str,
    overwrite: bool,
    spreadsheet_safe: bool,
    model: str | None,
    precision: str,
    device: str,
) -> None:
    """Find the proteins of STORE whose embeddings are most similar to those of QUERY.

    QUERY is a file of proteins, as for embed; a file of embeddings; accessions, entry names or full ids in STORE, such
    as P69905,HBB_HUMAN; or one sequence of at least 10 residues in upper case. Proteins are embedded with the settings
    that STORE records. The model must be the one that made STORE, which is checked by its checksum.

    The similarity is the cosine of the angle between pooled vectors, from -1 to 1. Rows per residue are averaged first.
    Every query is compared with every protein, unless --index is given. Similarities are rounded to six decimals; of
    proteins with equal similarities, the one that comes first in STORE ranks first. A query that is in STORE finds
    itself, unless --skip-self is given.

    \b
    The columns of the table are:
      query         accession of the query
      rank          1 for the most similar protein
      protein       accession of the protein that was found
      original_id   its id as in the input of embed
      similarity    cosine similarity
      model         name of the model, and the start of its checksum;
                    only with -o
      ...           columns of the table of annotations; a name that is
                    above becomes annotation_NAME

    \b
    Examples:
      prott5nv embed proteome.fasta -o proteome.parquet --pooling mean
      prott5nv search mine.fasta --in proteome.parquet
      prott5nv search P69905,P68871 --in proteome.parquet -k 5 --skip-self
      prott5nv search mine.fasta --in proteome.parquet -o hits.tsv --annotations uniprot.tsv.gz
      prott5nv search mine.fasta --in uniref50.parquet --whiten --index uniref50.index
      prott5nv search proteome.parquet --in proteome.parquet --skip-self -o all.csv

    Exit codes: 0 for success, 2 for an error, 3 for success with skipped queries, 130 after Ctrl-C.
    """
    from prott5nv.embedding.search import ExactSearch, find_neighbours
    from prott5nv.embedding.skips import Skips
    from prott5nv.embedding.store import EmbeddingStore, is_store
    from prott5nv.io.progress import Progress
    from prott5nv.io.table import write_table

    is_file = query == "-" or os.path.exists(query)
    source = input_files([query]) if is_file and not is_store(query) else None  # None also for names and a sequence
    if annotations and annotations != "-" and not os.path.exists(annotations):
        raise ProtT5nvError(f"{annotations}: No such file or directory")
    outputs = [output, options.skip_list(output) if output else None]
    inputs = [*(parts(source) if source else [query]), store, annotations, model]
    options.reserve_outputs(outputs, inputs, overwrite=overwrite)
    options.reserve_outputs([index], [*inputs, output], overwrite=True)
    skips = Skips(on_error == "skip")
    with ExitStack() as stack:
        opened = stack.enter_context(EmbeddingStore(store))
        searched = _index(index, opened, whiten) if index else ExactSearch(opened, whiten=whiten)
        queries, count = _queries(
            query,
            source,
            opened,
            stack,
            skips=skips,
            cleaning=cleaning,
            model=model,
            device=device,
            precision=precision,
        )
        progress = stack.enter_context(Progress(count * len(searched), "pairs"))
        found = find_neighbours(searched, queries, k, skip_self=skip_self, on_progress=progress.update)
        columns, rows = _table(found, opened, annotations)
        if output is None:
            _print_table(columns, rows, progress)
        else:
            with together():
                neighbours = write_table(output, columns, rows, spreadsheet_safe=spreadsheet_safe)
                options.write_skip_list(output, skips, spreadsheet_safe=spreadsheet_safe)
            summary = f"{counted(neighbours, 'neighbour')} of {counted(count - skips.count, 'protein')}"
            options.report_written(output, f"{summary}, model {_label(opened)}")
    options.finish(output or Path("-"), skips)


def _index(path: Path, store: EmbeddingStore, whiten: bool) -> VectorIndex:
    """Open the index of a store. If there is none, or the store has changed, it is built."""
    from prott5nv.embedding.search_index import build_index, open_index
    from prott5nv.io.progress import Progress

    opened = open_index(path, store, whiten=whiten)
    if opened is None:
        reason = "it belongs to another store or similarity" if path.exists() else "it does not exist"
        options.note(f"building {path}, because {reason}")
        with Progress(3 * len(store), "steps") as progress:
            opened = build_index(path, store, whiten=whiten, on_progress=progress.update)
    recall, probes = opened.description["recall"], opened.description["probes"]
    options.note(
        f"{path}: recall@10 {recall:.3f} against the exact search; {probes:,} of {opened.lists:,} lists searched"
    )
    return opened


def _queries(
    query: str,
    source: str | InputFiles | None,
    store: EmbeddingStore,
    stack: ExitStack,
    *,
    skips: Skips,
    cleaning: Cleaning,
    model: str | None,
    device: str,
    precision: str,
) -> tuple[Iterator[tuple[str, np.ndarray]], int]:
    """Return accessions and vectors of the queries, and their number. `stack` closes a store of queries."""
    from prott5nv.embedding.proteins import sequence_of
    from prott5nv.embedding.search import check_comparable, stored_vectors, vectors_of
    from prott5nv.embedding.store import EmbeddingStore

    if source is None and os.path.exists(query):
        opened = stack.enter_context(EmbeddingStore(query))
        check_comparable(query, opened.attributes, store)
        return stored_vectors(opened), len(opened)
    name = "QUERY"
    records: dict[str, Record]
    if source is None:
        if accessions := _accessions(store, re.split(r",\s*", query)):
            return vectors_of(store, accessions), len(accessions)
        if not _INLINE.fullmatch(query):
            raise ProtT5nvError(
                f"{shortened(query)}: no such file, no accession, entry name or full id of a protein of {store.path}, "
                "and no sequence of at least 10 residues in upper case"
            )
        records = {"query": Record("query", sequence_of(query, name, cleaning), "query", 1)}
    from prott5nv.decoding.inputs import read_proteins
    from prott5nv.embedding.search_queries import embedded_queries, embedder_of
    from prott5nv.embedding.survey import residue_fault

    embedder = embedder_of(store, model, device=device, precision=precision)
    options.note(f"model {embedder.label}; {embedder.hardware}")
    if source is not None:
        name = input_name(source)
        tokenizer = embedder.tokenizer
        records = read_proteins(
            source, skips, (), cleaning, find_fault=lambda record: residue_fault(record.sequence, tokenizer)
        )

    def skip(record: Record, error: ProtT5nvError) -> None:
        skips.add(error, record.line, record.id)

    return embedded_queries(records.values(), store, embedder, name, skip), len(records) + skips.count


def _accessions(store: EmbeddingStore, names: Sequence[str]) -> list[str] | None:
    """Return the accessions of proteins by accession, full id or entry name; None if none of them is in the store."""
    accessions = [name if name in store else accession(name) for name in names]
    unknown = [name for name in accessions if name not in store]
    if all(_ENTRY_NAME.fullmatch(name) for name in unknown):  # Then it is worth reading all original ids.
        by_entry_name = {protein_names(store.original_id(key))[1]: key for key in store} if unknown else {}
        accessions = [by_entry_name.get(name, name) for name in accessions]
    absent = [name for name, key in zip(names, accessions, strict=True) if key not in store]
    if 0 < len(absent) < len(names):
        raise ProtT5nvError(f"{shortened(absent[0])}: no accession, entry name or full id of a protein of {store.path}")
    return None if absent else accessions


def _table(
    found: Iterable[tuple[str, list[Neighbour]]], store: EmbeddingStore, annotations: str | None
) -> tuple[list[str], Iterable[list[object]]]:
    """Return the columns and the rows of the result. With annotations, all rows are held in memory."""
    label = _label(store)

    def rows() -> Iterator[list[object]]:
        for query, neighbours in found:
            for rank, (key, similarity) in enumerate(neighbours, 1):
                if key not in store:  # as with an index that a stranger made
                    raise ProtT5nvError(
                        f"the index lists {shortened(key)!r}, which is not in {store.path}; delete the index"
                    )
                yield [query, rank, key, store.original_id(key), f"{similarity:.6f}", label]

    if annotations is None:
        return list(_COLUMNS), rows()
    from prott5nv.io.annotations import read_annotations

    held = list(rows())
    proteins = {str(row[2]): str(row[3]) for row in held}
    table = read_annotations(annotations, list(proteins.items()))
    names = [f"annotation_{name}" if name in _COLUMNS else name for name in table.columns]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ProtT5nvError(f"{annotations}: two columns would be called {twice[0]!r}; rename one of them")
    cells = table.merged()
    if absent := len(proteins) - len(cells):
        options.warn(f"warning: {annotations}: no row for {absent:,} of the {counted(len(proteins), 'protein')} found")
    of_protein = {key: cells.get(number, [""] * len(table.columns)) for number, key in enumerate(proteins)}
    return [*_COLUMNS, *names], ([*row, *of_protein[str(row[2])]] for row in held)


def _label(store: EmbeddingStore) -> str:
    """Return the name of the model that made a store, and the start of its checksum."""
    name, sha256 = (str(store.attributes.get(attribute, "")) for attribute in ("model_name", "model_sha256"))
    return f"{name} {sha256[:8]}".strip() or "unknown"


def _print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], progress: Progress) -> None:
    """Print a table with aligned columns. It leaves out the model, and shortens long cells."""
    shown = [index for index, column in enumerate(columns) if column != "model"]
    cells = [[_cell(row[index]) for index in shown] for row in chain([columns], rows)]
    progress.close()
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    text = printable(value)
    return text if len(text) <= _WIDEST_CELL else f"{text[: _WIDEST_CELL - 3]}..."
