"""Measure the peak memory of ``prott5nv embed``, from a FASTA file to an HDF5 file, for few and for many proteins.

    OMP_NUM_THREADS=1 python benchmarks/embed_memory.py        # 100 and 20,000 proteins, tiny model
    OMP_NUM_THREADS=1 python benchmarks/embed_memory.py --preset small --proteins 100 2000

The proteins are random and short (20 to 200 residues), because the question is whether memory grows with their number.
With one thread the figures vary less: each further thread has memory of its own.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from common import argument_parser, print_table, run_process, save_random_model, write_random_fasta

from prott5nv import ModelConfig


def measure(folder: Path, numbers: Sequence[int], options: Sequence[str]) -> Iterator[Sequence[str]]:
    """Embed each number of proteins and yield its row of the table."""
    for proteins in numbers:
        fasta, output = folder / "proteins.fasta", folder / f"{proteins}.h5"
        write_random_fasta(fasta, proteins)
        usage = run_process([sys.executable, "-m", "prott5nv", "embed", fasta, "-o", output, *options])
        yield f"{proteins:,}", f"{usage.peak_mib:.0f} MiB", f"{output.stat().st_size / 2**20:.0f} MiB"
        output.unlink()


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--preset", default="tiny", choices=ModelConfig.preset_names(), help="Size of the model.")
    parser.add_argument("--proteins", type=int, nargs="+", default=[100, 20_000], help="Numbers of proteins to embed.")
    parser.add_argument("--precision", default="auto", help="Passed on to prott5nv embed.")
    parser.add_argument("--pooling", default="none", help="Passed on to prott5nv embed.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        checkpoint = save_random_model(Path(name, "model.nemo"), ModelConfig.preset(arguments.preset))
        options = ["--model", str(checkpoint), "--precision", arguments.precision, "--pooling", arguments.pooling]
        columns = ("proteins", "peak memory", "size of the output")
        print_table(columns, measure(Path(name), arguments.proteins, options))


if __name__ == "__main__":
    main()
