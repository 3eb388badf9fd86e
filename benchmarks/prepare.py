"""Rate and memory of ``prott5nv prepare uniref50`` on generated proteins: python benchmarks/prepare.py [RECORDS]"""

from __future__ import annotations

import random
import resource
import sys
import tempfile
import time
from pathlib import Path

from prott5nv.data.prepare import describe, prepare

ATTEMPTS = 3  # the best of which counts: other work on the machine only slows down
AMINO_ACIDS = "LASGVERTDIPKNFQYHMCW"


def write_fasta(path: Path, records: int) -> None:
    """Write proteins of UniRef50's look: its headers, 60 columns, mean length 290, a tail beyond 512."""
    generator = random.Random(0)
    pool = "".join(generator.choices(AMINO_ACIDS, k=1_000_000))
    with open(path, "w") as file:
        for number in range(records):
            length = min(30 + int(generator.expovariate(1 / 270)), 2000)
            start = generator.randrange(len(pool) - 2000)
            file.write(
                f">UniRef50_A0A{number:07d} Peptidylprolyl isomerase n=1 Tax=Triplophysa tibetana TaxID=1572043 "
                f"RepID=A0A{number // 3:07d}_9TELE\n"
            )
            for column in range(start, start + length, 60):
                file.write(pool[column : min(column + 60, start + length)] + "\n")


def main() -> None:
    records = int(sys.argv[1]) if len(sys.argv) > 1 else 500_000
    with tempfile.TemporaryDirectory() as folder:
        fasta = Path(folder) / "generated.fasta"
        write_fasta(fasta, records)
        megabytes = fasta.stat().st_size / 1e6
        print(f"{records:,} records, {megabytes:,.0f} MB of text")
        for label, sizes in (
            ("fractions", {"validation": 0.01, "test": 0.01}),
            ("exact counts", {"validation": records // 1000, "test": records // 50}),
            ("by group", {"validation": 0.01, "test": 0.01, "group_by": "RepID"}),
        ):
            walls, cpus = [], []
            for attempt in range(ATTEMPTS):
                wall, cpu = time.perf_counter(), time.process_time()
                provenance = prepare(fasta, Path(folder) / f"{label} {attempt}", **sizes)
                walls.append(time.perf_counter() - wall)
                cpus.append(time.process_time() - cpu)
            wall, cpu = min(walls), min(cpus)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
            print(
                f"\n{label}: {megabytes / wall:.0f} MB/s, {megabytes / cpu:.0f} MB per CPU second, "
                f"{records / wall:,.0f} records/s, peak memory {peak:.0f} MiB"
            )
    print(describe(provenance))


if __name__ == "__main__":
    main()
