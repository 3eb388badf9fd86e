"""Assign proteins to families of Pfam, as a test set for ``search.py retrieval``.

    pip install pyhmmer
    python benchmarks/pfam_families.py corpus.fasta.gz Pfam.h3m -o families

The headers of the FASTA file name a cluster, such as ``>P69905 c50=P69905``. The first protein of each cluster is
taken, if it has 60 to 512 residues, so that no two proteins are close relatives. HMMER searches the first
``--proteins`` of them with all profiles, and each protein belongs to the family of its lowest E-value, which must be
below 1e-10. Families of at least 3 proteins are kept, with their first 12.

The folder gets ``families.fasta``, and the table ``families.tsv`` with the columns ``accession`` and ``pfam``.
"""

from __future__ import annotations

from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from common import argument_parser, digital_sequences

from prott5nv.data.groups import HeaderGroups
from prott5nv.io.progress import Progress
from prott5nv.io.reader import read_records
from prott5nv.io.record import Record

E_VALUE = 1e-10
FEWEST, MOST = 3, 12  # proteins of a family


def representatives(fasta: str, cluster: str) -> Iterator[Record]:
    """Yield the first protein of each cluster that has a fitting length."""
    groups, seen = HeaderGroups(cluster), set[str]()
    for record in read_records(fasta):
        if 60 <= len(record.sequence) <= 512 and (group := groups.group_of(record)) not in seen:
            seen.add(group)
            yield record


def best_families(records: list[Record], profiles: str) -> list[str]:
    """Return the family of each protein; an empty text if it has none."""
    import pyhmmer

    sequences = digital_sequences(record.sequence for record in records)
    best = [(E_VALUE, "")] * len(records)
    with pyhmmer.plan7.HMMFile(profiles) as file:
        hmms = list(file)
    with Progress(len(hmms), "families") as bar:
        for hmm, hits in zip(hmms, pyhmmer.hmmsearch(hmms, sequences, E=E_VALUE), strict=True):
            for hit in hits:
                number = int(hit.name)
                best[number] = min(best[number], (hit.evalue, as_text(hmm.accession or hmm.name).split(".")[0]))
            bar.update(1)
    return [family for _, family in best]


def as_text(name: str | bytes) -> str:
    """Return a name; some versions of pyhmmer give bytes."""
    return name.decode() if isinstance(name, bytes) else name


def main(arguments: Namespace) -> None:
    """Write the proteins of the families and their table."""
    records = list(islice(representatives(arguments.proteins_file, arguments.cluster), arguments.proteins))
    members: dict[str, list[Record]] = defaultdict(list)
    for record, family in zip(records, best_families(records, arguments.profiles), strict=True):
        if family:
            members[family].append(record)
    kept = {family: found[:MOST] for family, found in members.items() if len(found) >= FEWEST}
    arguments.output.mkdir(parents=True, exist_ok=True)
    with open(arguments.output / "families.fasta", "w") as fasta, open(arguments.output / "families.tsv", "w") as table:
        table.write("accession\tpfam\n")
        for family, found in kept.items():
            for record in found:
                fasta.write(f">{record.id}\n{record.sequence}\n")
                table.write(f"{record.id}\t{family}\n")
    print(f"{sum(map(len, kept.values())):,} proteins of {len(kept):,} families among {len(records):,} proteins")


if __name__ == "__main__":
    parser = argument_parser(__doc__)
    parser.add_argument("proteins_file", metavar="FASTA", help="proteins with their clusters in the headers")
    parser.add_argument("profiles", metavar="PROFILES", help="Pfam's profiles, in a format of HMMER")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--cluster", default="c50", help="name of the cluster in a header")
    parser.add_argument("--proteins", type=int, default=20000, help="number of clusters to search")
    main(parser.parse_args())
