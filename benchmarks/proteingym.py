"""Score the substitutions of ProteinGym's assays without training on them, and compare with published models.

    python benchmarks/proteingym.py ASSAYS --reference DMS_substitutions.csv -o results/proteingym
    python benchmarks/proteingym.py ASSAYS --reference DMS_substitutions.csv -o results/proteingym \\
        --model prott5nv.nemo --published zero_shot_DMS_substitutions_Spearman_DMS_level.csv --max-length 200

ASSAYS is a folder with one CSV file per assay, named after it and gzipped or not: ProteinGym's own files, with the
columns ``mutant`` and ``DMS_score``, or files with ``mutant`` and ``z_score``. The other files are ProteinGym's, too.
``--max-length`` and ``--every`` select fewer assays, for a shorter run.

Each model scores in three ways:

- masked one at a time: log p(mutant) - log p(wild type), with one residue masked, as ``prott5nv score`` does;
- masked 15 % at a time: the same, with evenly spaced residues masked together, in seven passes for each protein;
- mean of both.

With several substitutions, the scores of the substitutions are added. An encoder-decoder has no wild-type marginals in
one pass, because its decoder predicts only residues that are masked.

The output folder has the log-probabilities of each protein, so that a stopped run continues where it stopped, and four
results: ``assays.csv`` with Spearman's correlation for every assay, ``proteingym.md`` with the averages,
``proteingym.png``, and ``zero_shot.json``, which ``prott5nv report`` shows beside fine-tuning runs. The averages are
those of ProteinGym's leaderboard: over the assays of each UniProt entry, then over the entries of each selection type,
then over the selection types. The intervals are from a bootstrap over the entries.

Shapes: L residues of a protein, A amino acids, V variants of an assay.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from common import BLOSUM62, argument_parser
from tqdm import tqdm

from prott5nv import Embedder
from prott5nv.assets import BUILTIN_MODEL
from prott5nv.decoding.marginals import masked_log_probabilities
from prott5nv.decoding.masking import AMINO_ACIDS as COLUMNS
from prott5nv.decoding.variants import Variant, parse_variant
from prott5nv.errors import ProtT5nvError
from prott5nv.flip.zero_shot import ZeroShot, ZeroShotScore, write_zero_shot
from prott5nv.io.atomic import whole_file, write_text

FRACTIONS = {"masked one at a time": 0.0, "masked 15 % at a time": 0.15}
PUBLISHED = ["ESM2 (8M)", "ESM2 (35M)", "ESM2 (150M)", "ESM2 (650M)", "Site-Independent", "VESPA"]
BOOTSTRAPS = 1000
SELECTION = "coarse_selection_type"


def assay_files(folder: Path, reference: pd.DataFrame) -> dict[str, Path]:
    """Find the files of the assays.

    Parameters
    ----------
    folder : Path
    reference : DataFrame
        ProteinGym's reference file, with ``DMS_id`` as its index.

    Returns
    -------
    dict of Path
        By the name of the assay. Assays without a file are left out.

    Raises
    ------
    SystemExit
        If there is none.
    """
    found = {
        name: path
        for name in reference.index
        for suffix in (".csv", ".csv.gz")
        if (path := folder / f"{name}{suffix}").is_file()
    }
    if not found:
        raise SystemExit(f"error: {folder} has no file of an assay, such as {reference.index[0]}.csv")
    return found


def read_assay(path: Path, sequence: str) -> tuple[list[Variant], np.ndarray]:
    """Read the variants of an assay and their measurements.

    Parameters
    ----------
    path : Path
    sequence : str
        The wild type.

    Returns
    -------
    variants : list of Variant, length=V
    measured_V : ndarray, shape=(V,), dtype=float64
        The larger, the fitter.
    """
    table = pd.read_csv(path)
    column = "DMS_score" if "DMS_score" in table else "z_score"
    return [parse_variant(mutant, sequence, path.name) for mutant in table["mutant"]], table[column].to_numpy(float)


def summed(variants: Sequence[Variant], score: Callable[[int, str, str], float]) -> np.ndarray:
    """Add up the scores of the substitutions of each variant: ndarray, shape=(V,), dtype=float64."""
    return np.array([sum(score(*substitution) for substitution in zip(*variant, strict=True)) for variant in variants])


def log_odds(log_probabilities_LA: np.ndarray) -> Callable[[int, str, str], float]:
    """Return the score of a substitution: log p(mutant) - log p(wild type)."""

    def score(index: int, wild: str, new: str) -> float:
        row_A = log_probabilities_LA[index]
        return float(row_A[COLUMNS.index(new)] - row_A[COLUMNS.index(wild)])

    return score


def log_probabilities(embedder: Embedder, sequence: str, assay: str, fraction: float, folder: Path) -> np.ndarray:
    """Compute the log-probabilities of a protein, or read those of an earlier run.

    Parameters
    ----------
    embedder : Embedder
    sequence : str
    assay : str
        Name of the assay, for messages and for the name of the file.
    fraction : float
        Fraction of the residues to mask at once; 0 for one at a time.
    folder : Path
        For the files of this model.

    Returns
    -------
    ndarray, shape=(L, A), dtype=float32
    """
    path = folder / f"{assay}-{fraction:g}.npy"
    if not path.is_file():
        passes = len(sequence) if not fraction else round(1 / fraction)
        with tqdm(total=passes * len(sequence), desc=assay, unit=" residues", unit_scale=True, leave=False) as bar:
            result_LA = masked_log_probabilities(
                sequence, embedder, fraction=fraction, name=assay, on_progress=bar.update
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as work, open(work, "wb") as file:
            np.save(file, result_LA)
    return np.load(path)


def model_scores(model: Path, proteins: dict[str, str], folder: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """Score the proteins of all assays.

    Parameters
    ----------
    model : Path
    proteins : dict of str
        Wild types by the name of the assay.
    folder : Path
        For files of log-probabilities.

    Yields
    ------
    assay, method : str
    log_probabilities_LA : ndarray, shape=(L, A), dtype=float32
    """
    embedder = Embedder(model)
    checksum = hashlib.sha256(model.read_bytes()).hexdigest()[:16]
    folder = folder / "log_probabilities" / f"{checksum}-{embedder.hardware.precision}"
    for assay, sequence in tqdm(proteins.items(), total=len(proteins), desc=model.name, unit=" assays"):
        results = {
            method: log_probabilities(embedder, sequence, assay, fraction, folder)
            for method, fraction in FRACTIONS.items()
        }
        for method, result_LA in {**results, "mean of both": np.mean(list(results.values()), axis=0)}.items():
            yield assay, method, result_LA


def averages(correlations: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Average as ProteinGym's leaderboard does.

    Parameters
    ----------
    correlations : DataFrame
        Spearman's correlations: a row for each assay, a column for each method.
    reference : DataFrame
        ProteinGym's reference file, with ``DMS_id`` as its index.

    Returns
    -------
    DataFrame
        A row for each method. Columns: the mean over the selection types, the ends of its 95 % interval, and each
        selection type.
    """
    groups = reference.loc[correlations.index, [SELECTION, "UniProt_ID"]]
    entries = correlations.groupby([groups[SELECTION], groups["UniProt_ID"]]).mean()
    by_type = entries.groupby(SELECTION).mean()
    rng = np.random.default_rng(0)
    parts = [part.to_numpy() for _, part in entries.groupby(SELECTION)]
    resampled = [
        np.mean([part[rng.integers(len(part), size=len(part))].mean(axis=0) for part in parts], axis=0)
        for _ in range(BOOTSTRAPS)
    ]
    low, high = np.percentile(resampled, [2.5, 97.5], axis=0)
    table = pd.DataFrame({"mean": by_type.mean(), "low": low, "high": high}, index=correlations.columns)
    return table.join(by_type.T)


def markdown(table: pd.DataFrame, assays: int) -> str:
    """Format the averages as a Markdown table, the best method first."""
    types = list(table.columns[3:])
    lines = [
        f"Spearman's correlation with the measurements of {assays} assays, averaged as on ProteinGym's leaderboard.",
        "",
        f"| Method | Mean [95 % interval] | {' | '.join(types)} |",
        "|---|" + "---|" * (len(types) + 1),
    ]
    for method, row in table.sort_values("mean", ascending=False).iterrows():
        values = " | ".join(f"{row[name]:.3f}" for name in types)
        lines.append(f"| {method} | {row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}] | {values} |")
    return "\n".join(lines) + "\n"


def plot(table: pd.DataFrame, path: Path) -> None:
    """Draw the means and their intervals, the best method on top."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    table = table.sort_values("mean")
    figure, axes = pyplot.subplots(figsize=(8, 0.35 * len(table) + 1), layout="constrained")
    errors = [table["mean"] - table["low"], table["high"] - table["mean"]]
    axes.barh(list(table.index), table["mean"], xerr=errors, color="#4477aa", ecolor="#222222", capsize=2)
    axes.axvline(0, color="#222222", linewidth=0.8)
    axes.set_xlabel("Spearman's correlation, mean over selection types")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def kind(method: str) -> str:
    """Return what `prott5nv report` distinguishes: ours, baseline or published."""
    if method.endswith("(published)"):
        return "published"
    return "baseline" if method == "BLOSUM62" else "ours"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("assays", type=Path, metavar="ASSAYS", help="folder with a CSV file for each assay")
    parser.add_argument("--reference", type=Path, required=True, help="ProteinGym's DMS_substitutions.csv")
    parser.add_argument("--published", type=Path, help="ProteinGym's table of Spearman's correlations for each assay")
    parser.add_argument(
        "--model", type=Path, action="append", help="a .nemo file; may be repeated (default: the built-in model)"
    )
    parser.add_argument("--max-length", type=int, metavar="N", help="leave out proteins of more than N residues")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every Nth assay only (default: all)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the results")
    return parser.parse_args()


def main() -> None:
    """Score all assays, and write the tables and the plot."""
    arguments = parse_arguments()
    reference = pd.read_csv(arguments.reference).set_index("DMS_id")
    if arguments.max_length:
        reference = reference[reference["seq_len"] <= arguments.max_length]
    files = dict(list(assay_files(arguments.assays, reference).items())[:: arguments.every])
    proteins = {name: str(reference.loc[name, "target_seq"]) for name in files}

    assays = {name: read_assay(path, proteins[name]) for name, path in files.items()}
    correlations = pd.DataFrame(index=list(files), dtype=float)

    def add(assay: str, method: str, score: Callable[[int, str, str], float]) -> None:
        variants, measured_V = assays[assay]
        # Spearman's correlation is Pearson's correlation of the ranks.
        ranks = pd.Series(summed(variants, score)).rank()
        correlations.loc[assay, method] = ranks.corr(pd.Series(measured_V).rank())

    for assay in files:
        add(assay, "BLOSUM62", lambda _, wild, new: BLOSUM62[wild][new])
    for model in arguments.model or [BUILTIN_MODEL]:
        for assay, method, result_LA in model_scores(Path(model), proteins, arguments.output):
            add(assay, f"{Path(model).stem}, {method}", log_odds(result_LA))
    if arguments.published:
        published = pd.read_csv(arguments.published).set_index("DMS ID")
        correlations = correlations.join(published[PUBLISHED].add_suffix(" (published)"))

    table = averages(correlations, reference)
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_text(arguments.output / "assays.csv", correlations.round(4).to_csv(index_label="DMS_id"))
    text = markdown(table, len(files))
    write_text(arguments.output / "proteingym.md", text)
    plot(table, arguments.output / "proteingym.png")
    scores = [
        ZeroShotScore(str(method), kind(str(method)), float(row["mean"]), float(row["low"]), float(row["high"]))
        for method, row in table.sort_values("mean").iterrows()
    ]
    write_zero_shot(arguments.output, ZeroShot(f"ProteinGym, {len(files)} assays", "mean Spearman correlation", scores))
    print(text)


if __name__ == "__main__":
    try:
        main()
    except ProtT5nvError as error:
        raise SystemExit(f"error: {error}") from None
