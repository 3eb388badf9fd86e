"""Measure the speed and the peak memory of ``prott5nv prepare uniref50`` on generated proteins.

    python benchmarks/prepare.py                     # 500,000 proteins
    python benchmarks/prepare.py --records 20000

The three ways to split off the validation and the test set are measured one after the other. The generated FASTA file
resembles UniRef50: its headers, lines of 60 residues, a mean length of about 290 and some proteins beyond 512 residues.
"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from typing import Any

from common import AMINO_ACIDS, argument_parser, peak_mib, print_table

from prott5nv.data.prepare import describe, prepare

ATTEMPTS = 3  # the fastest one counts, because other programs can only slow it down


def write_fasta(path: Path, records: int) -> None:
    """Write proteins that resemble those of UniRef50."""
    rng = random.Random(0)
    pool = "".join(rng.choices(AMINO_ACIDS, k=1_000_000))
    with open(path, "w") as file:
        for number in range(records):
            length = min(30 + int(rng.expovariate(1 / 270)), 2000)
            start = rng.randrange(len(pool) - 2000)
            file.write(
                f">UniRef50_A0A{number:07d} Peptidylprolyl isomerase n=1 Tax=Triplophysa tibetana TaxID=1572043 "
                f"RepID=A0A{number // 3:07d}_9TELE\n"
            )
            for column in range(start, start + length, 60):
                file.write(pool[column : min(column + 60, start + length)] + "\n")


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--records", type=int, default=500_000, help="Number of generated proteins.")
    records = parser.parse_args().records
    splits: dict[str, dict[str, Any]] = {
        "fractions": {"validation": 0.01, "test": 0.01},
        "exact counts": {"validation": records // 1000, "test": records // 50},
        "by group": {"validation": 0.01, "test": 0.01, "group_by": "RepID"},
    }
    rows, descriptions = [], []
    with tempfile.TemporaryDirectory() as folder:
        fasta = Path(folder) / "generated.fasta"
        write_fasta(fasta, records)
        megabytes = fasta.stat().st_size / 1e6
        print(f"{records:,} records, {megabytes:,.0f} MB of text\n")
        for label, options in splits.items():
            seconds, cpu_seconds = [], []
            for attempt in range(ATTEMPTS):
                began, cpu_began = time.perf_counter(), time.process_time()
                provenance = prepare(fasta, Path(folder) / f"{label} {attempt}", **options)
                seconds.append(time.perf_counter() - began)
                cpu_seconds.append(time.process_time() - cpu_began)
            rates = f"{megabytes / min(seconds):.0f}", f"{megabytes / min(cpu_seconds):.0f}"
            rows.append((label, *rates, f"{records / min(seconds):,.0f}", f"{peak_mib():.0f} MiB"))
            descriptions.append(f"{label}: {describe(provenance)}")
    print_table(("split", "MB/s", "MB per CPU second", "records/s", "peak memory"), rows)
    print("\n" + "\n".join(descriptions))


if __name__ == "__main__":
    main()
