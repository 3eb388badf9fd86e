"""``prott5nv finetune``: train a head on the encoder for a task, score it, and save one file that predicts."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from prott5nv.cli import options
from prott5nv.errors import ProtT5nvError
from prott5nv.extras import require_extra
from prott5nv.io.source import refuse_spreadsheet
from prott5nv.io.text import did_you_mean

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from prott5nv.cli.hydra_app import Score
    from prott5nv.io.cleaning import Cleaning

_SHOWN_METRICS = ("accuracy", "macro_f1", "mcc", "mse", "spearman", "r2")


@click.command()
@click.argument("task", metavar="TASK|TABLE")
@click.argument("overrides", nargs=-1, metavar="[NAME=VALUE]...")
@options.model
@click.option("--data", metavar="DIR", help="Folder that prott5nv prepare flip wrote.  [default: flip]")
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    help="Folder for the results of this run.  [default: results/finetune/TASK-SPLIT-MODE]",
)
@click.option(
    "--mode",
    type=click.Choice(["frozen", "lora", "full"]),
    help="What to train besides the head: nothing, low-rank adapters (LoRA) in the encoder, or the whole encoder.  "
    "[default: frozen]",
)
@click.option(
    "--level",
    type=click.Choice(["residue", "protein"]),
    help="Whether your own table has a target for every residue or one for every protein.",
)
@click.option(
    "--label",
    type=click.Choice(["class", "number"]),
    help="Whether the targets in your own table are classes or numbers.",
)
@click.option("--target-column", metavar="NAME", help="Column with the targets in your own table.  [default: target]")
@click.option(
    "--sequence-column", metavar="NAME", help="Column with the sequences in your own table.  [default: sequence]"
)
@click.option(
    "--skip-missing",
    is_flag=True,
    help="Leave out proteins whose sequence, target or set is missing. Without this option they are an error.",
)
@click.option(
    "-m",
    "--multirun",
    is_flag=True,
    help="Train one run for each of several values, such as task.training.lr=1e-3,1e-4. The folders are named DIR-0, "
    "DIR-1 and so on, and a table of the mean validation scores is printed at the end and written to a file.",
)
@options.cleaning
@options.overwrite
def command(
    task: str,
    overrides: tuple[str, ...],
    model: str | None,
    data: str | None,
    output: str | None,
    mode: str | None,
    level: str | None,
    label: str | None,
    target_column: str | None,
    sequence_column: str | None,
    skip_missing: bool,
    multirun: bool,
    cleaning: Cleaning,
    overwrite: bool,
) -> None:
    """Train a predictor for a task, score it and its baselines, and save it as one file.

    TASK is secondary_structure, conservation, scl, meltome or gb1; prott5nv prepare flip writes its table. TABLE is a
    table of your own, whose name ends in .csv, .tsv, .csv.gz or .tsv.gz. It needs one column with sequences and one
    with targets, and should have a column named set with the values train, val and test. Without it, a random tenth of
    the proteins becomes the test set, and a tenth of the others the validation set. The target of a protein is one
    value. With --level residue it is one letter for each residue, or one number for each residue with spaces between
    them. A table that prott5nv prepare fasta wrote needs neither --level nor --label.

    The command trains three times with different seeds and scores the test set with 95 % intervals. It writes three
    files to DIR: model.safetensors (for prott5nv predict), predictions.csv, and result.json (for prott5nv report).
    If DIR has the results of the same settings, nothing is computed. A run that was killed keeps its finished
    embeddings: give the same command again to continue. The embeddings of a task are kept for other runs, in the
    folder that prott5nv cache shows.

    The head is mlp for proteins, and convnet for residues; task.head.name=NAME chooses another. NAME=VALUE changes any
    setting, such as task.training.epochs=10. The settings are listed at
    https://github.com/prott5nv/prott5nv/blob/main/docs/reference/settings.md; in a clone, python scripts/finetune.py
    task=gb1 --cfg job prints them. The command needs the extra finetune.

    \b
    Examples:
      prott5nv finetune secondary_structure --model prott5nv.nemo
      prott5nv finetune gb1 task.split=sampled --mode lora
      prott5nv finetune melting.csv --level protein --label number --target-column Tm
      prott5nv finetune gb1 --multirun task.training.lr=1e-3,1e-4 task.head.name=mlp,linear
      prott5nv finetune scl task.head.name=light_attention task.training.balanced=true 'seeds=[1,2,3,4,5]'
    """
    require_extra("finetune", "fine-tuning")
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from prott5nv.assets import config_folder
    from prott5nv.cli import hydra_app
    from prott5nv.cli.overrides import quote, quote_texts, text_settings
    from prott5nv.flip.config import TABLES, FinetuneConfig, own_table_settings, register_configs
    from prott5nv.settings import describe

    refuse_spreadsheet(task)
    settings = {
        "mode": mode,
        "model.restore_encoder_path": model,
        "data_dir": data,
        "output_dir": output,
        "task.level": level,
        "task.label": label,
        "task.target_column": target_column,
        "task.sequence_column": sequence_column,
        "task.skip_missing": "true" if skip_missing else None,
        "task.gaps": cleaning.gaps if cleaning.gaps != "error" else None,
        "task.allow_nucleotides": "true" if cleaning.allow_nucleotides else None,
        "overwrite": "true" if overwrite else None,
    }
    if task.endswith(TABLES):
        table_settings = own_table_settings(task, level, label)
        if not table_settings:
            raise click.UsageError("a table of your own needs --level residue|protein and --label class|number")
        settings |= table_settings
        task = "custom"
    elif task not in (tasks := _task_names()):
        raise ProtT5nvError(
            f"no task {task!r}: choose {', '.join(tasks)}, or a table whose name ends in {' or '.join(TABLES)}"
            f"{did_you_mean(task, tasks)}"
        )
    given = [f"task={task}", *(f"{name}={quote(value)}" for name, value in settings.items() if value is not None)]
    if multirun:
        run_program(["--multirun", *given, *overrides])
        return
    register_configs()
    hydra_app.configure_logging()
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            changed = quote_texts(overrides, text_settings(FinetuneConfig))
            cfg = compose("finetune", [*given, *changed])
        run(cfg)
    except (HydraException, OmegaConfBaseException) as error:
        raise ProtT5nvError(describe(error, FinetuneConfig)) from None


def run_program(arguments: Sequence[str] | None = None) -> None:
    """Fine-tune as a Hydra program, as ``scripts/finetune.py`` and ``--multirun`` do.

    Parameters
    ----------
    arguments : sequence of str, optional
        Overrides and flags for Hydra, instead of those in ``sys.argv``.
    """
    from prott5nv.cli import hydra_app
    from prott5nv.flip.config import FinetuneConfig, register_configs

    program = hydra_app.Program(run, _check, "finetune", register_configs, FinetuneConfig, "output_dir")
    hydra_app.run(program, arguments)


def _check(cfg: DictConfig) -> None:
    from prott5nv.flip.config import finetune_config

    config = finetune_config(cfg)
    # Importing PyTorch takes a second. An invalid setting has been reported by now.
    from prott5nv.flip.finetune import check_run

    check_run(config)


def run(cfg: DictConfig) -> Score:
    """Fine-tune with a composed configuration and print the scores.

    Parameters
    ----------
    cfg : DictConfig
        ``conf/finetune.yaml`` with overrides.

    Returns
    -------
    Score
        Mean score on the validation set. A sweep maximizes its objective, which is negative for an error.

    Raises
    ------
    ProtT5nvError
        If a setting, the table or the model is not valid.
    """
    from prott5nv.cli.hydra_app import Score, refuse_missing_values
    from prott5nv.flip.config import finetune_config

    refuse_missing_values(cfg)
    config = finetune_config(cfg)
    # Importing PyTorch takes a second. An invalid setting has been reported by now.
    from prott5nv.flip.finetune import finetune

    with _sigterm_like_ctrl_c():
        finished = finetune(config)
    for name, scores in finished.result["results"].items():
        click.echo(f"{name:>16}: {_format_scores(scores['all'])}")
    click.echo(f"results: {finished.folder}, which `prott5nv predict` takes as RUN")
    return Score(f"validation {finished.metric}", abs(finished.validation), finished.validation)


@contextmanager
def _sigterm_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM, with which Slurm ends a job, print what is kept, as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _task_names() -> list[str]:
    """Return the names of the tasks in the configuration, without that of own tables."""
    from prott5nv.assets import config_folder

    names = sorted(path.stem for path in (config_folder() / "task").glob("*.yaml"))
    return [name for name in names if name != "custom"]


def _format_scores(scores: dict[str, dict[str, Any]]) -> str:
    from prott5nv.flip.metrics import decimals

    texts = []
    for name in _SHOWN_METRICS:
        if score := scores.get(name):
            mean, low, high = (f"{score[key]:.{decimals(name, score['mean'])}f}" for key in ("mean", "low", "high"))
            texts.append(f"{name} {mean} [{low}, {high}]")
    return "   ".join(texts)
