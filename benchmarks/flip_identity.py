"""Measure how similar the test proteins of a FLIP table, or proteins of your own, are to its training proteins.

    pip install pyhmmer
    prott5nv prepare flip secondary_structure --from FLIP/ -o flip
    python benchmarks/flip_identity.py flip/secondary_structure/sampled.csv
    python benchmarks/flip_identity.py flip/secondary_structure/sampled.csv --proteins examples/proteins.fasta

phmmer searches the training proteins with each protein. Its identity is that of the best alignment with an E-value
below 1e-3: identical residues as a fraction of the alignment's columns, where the alignment covers at least half of the
protein.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from common import argument_parser, digital_sequences, print_table

from prott5nv.flip.tasks import load_task
from prott5nv.io.reader import read_records

E_VALUE = 1e-3
COVERAGE = 0.5
THRESHOLDS = (0, 20, 25, 30, 40, 50, 90)  # percent


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("table", help="Table that prott5nv prepare flip wrote.")
    parser.add_argument("--proteins", metavar="FASTA", help="Proteins to compare instead of the test proteins.")
    parser.add_argument("--level", choices=["residue", "protein"], default="residue", help="Level of the targets.")
    arguments = parser.parse_args()
    task = load_task(arguments.table, name="table", level=arguments.level, label="class")
    training = [task.sequences[i] for i in task.indices("train")]
    if arguments.proteins:
        queries = [record.sequence for record in read_records(arguments.proteins)]
    else:
        queries = [task.sequences[i] for i in task.indices("test")]
    found = list(identities(queries, training))
    rows = (
        (f"identity of at least {least} %" if least else "any alignment", f"{sum(each >= least for each in found):,}")
        for least in THRESHOLDS
    )
    print_table([f"Of {len(queries):,} proteins, with a training protein of", "Number"], rows)


def identities(queries: Sequence[str], targets: Sequence[str]) -> Iterator[float]:
    """Yield for each query the identity with its most similar target in percent, or -1 without an alignment."""
    import pyhmmer

    searches = pyhmmer.phmmer(digital_sequences(queries), digital_sequences(targets), E=E_VALUE)
    for query, hits in zip(queries, searches, strict=True):
        best = -1.0
        for hit in hits:
            alignment = hit.best_domain.alignment
            if alignment.hmm_to - alignment.hmm_from + 1 >= COVERAGE * len(query):
                same = sum(letter.isalpha() for letter in alignment.identity_sequence)
                best = max(best, 100 * same / len(alignment.identity_sequence))
        yield best


if __name__ == "__main__":
    main()
