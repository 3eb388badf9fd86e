"""Attack the package with damaged and hostile files, full disks and kills, and print how the attempts end.

    python benchmarks/attack/run.py --files 1500 --kills 20 --sizes 12
    python benchmarks/attack/run.py parquet archives --files 100
    python benchmarks/attack/run.py endings --command embed --command "plot png"

Kinds of files: ``hostile`` are made by hand, such as links to other files, bombs and encrypted archives. All others are
sound files that are damaged at random: ``stores`` and ``predictors-1`` (HDF5), ``parquet``, ``archives`` (FLIP's zip),
``predictors`` (safetensors), ``folders`` (Hugging Face), ``journals`` (interrupted embedding runs). ``endings`` runs
every command on full disks and kills it. ``ckpt.py`` attacks the checkpoints of pretraining, and
``../fuzz_checkpoint.py`` those in ``.nemo`` files.

An attempt may end with the right numbers, with the numbers that the damaged file holds where the format has no checksum
(HDF5, Parquet and safetensors), or with an error in one line. A traceback, a crash, more than 10 seconds or 1 GiB, and
a file that is written elsewhere are failures; the exit code is 1 if there is one.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1]))  # for `common`

import endings
import hdf5
import journals
import models
import tables
from common import argument_parser
from mutants import Outcome

ATTACKS: dict[str, Callable[[Path, int, int], Outcome]] = {
    "stores": hdf5.attack_stores,
    "predictors-1": hdf5.attack_predictors,
    "parquet": tables.attack_parquet,
    "archives": tables.attack_archives,
    "predictors": models.attack_predictors,
    "folders": models.attack_folders,
    "journals": journals.attack_journals,
}


def main() -> int:
    parser = argument_parser(__doc__)
    kinds = ["hostile", *ATTACKS, "endings"]
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"Any of {', '.join(kinds)}; all by default.")
    parser.add_argument("--files", type=int, default=1500, help="Number of damaged files of each kind.")
    parser.add_argument("--kills", type=int, default=20, help="Number of kills of each command.")
    parser.add_argument("--sizes", type=int, default=12, help="Number of sizes of the disk for each command.")
    parser.add_argument("--command", dest="commands", action="append", choices=endings.COMMANDS,
                        help="Command for endings. Repeat the option for several; all by default.")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="Seed of the damage and of the moments of the kills.")
    arguments = parser.parse_args()
    if unknown := set(arguments.kinds) - set(kinds):
        parser.error(f"unknown kind {min(unknown)}")
    failures = 0

    def report(name: str, outcome: Outcome) -> None:
        nonlocal failures
        failures += len(outcome.failures)
        print(f"{name}: {outcome.counts.total():,} attempts, slowest {outcome.slowest:.1f} s", flush=True)
        for result, count in outcome.counts.most_common():
            print(f"{count:>8,}  {result}")
        for failure in outcome.failures[:10]:
            print(f"          {failure}")

    for kind in arguments.kinds or kinds:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if kind == "hostile":
                for name_of_kind, module in (("HDF5", hdf5), ("tables and archives", tables)):
                    (folder / name_of_kind).mkdir()
                    report(f"hostile {name_of_kind}", module.attack_hostile(folder / name_of_kind))
            elif kind == "endings":
                commands = arguments.commands or endings.COMMANDS
                endings.attack_all(folder, commands, arguments.kills, arguments.sizes, arguments.seed, report)
            else:
                report(kind, ATTACKS[kind](folder, arguments.files, arguments.seed))
    print(f"{failures} failures")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
