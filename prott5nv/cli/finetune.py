"""``prott5nv finetune``: a head on the encoder for a task, scored, saved as one file that predicts."""

from __future__ import annotations

import click


@click.command()
@click.argument("task", metavar="TASK|FILE.csv")
@click.argument("overrides", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--model", metavar="FILE.nemo", help="The encoder; by default the small built-in model.")
@click.option("--data", metavar="DIR", help="What prott5nv prepare flip wrote.  [default: flip]")
@click.option("-o", "--output", metavar="DIR", help="Of the run.  [default: results/finetune/TASK-SPLIT-MODE]")
@click.option("--mode", type=click.Choice(["frozen", "lora", "full"]), default="frozen", show_default=True,
              help="What learns besides the head: nothing, low-rank adapters, or the whole encoder.")  # fmt: skip
@click.option("--level", type=click.Choice(["residue", "protein"]), help="Of your own table: what has a target.")
@click.option("--label", type=click.Choice(["class", "number"]), help="Of your own table: what a target is.")
@click.option("--target-column", metavar="NAME", help="Of your own table.  [default: target]")
@click.option("--sequence-column", metavar="NAME", help="Of your own table.  [default: sequence]")
def command(task, overrides, model, data, output, mode, level, label, target_column, sequence_column):
    """Train a head on the encoder for a task, score it beside baselines, save one file that predicts.

    TASK is secondary_structure, conservation, scl, meltome or gb1, made by prott5nv prepare flip. FILE.csv is a table
    of your own with a column of sequences and one of targets, and best with a column set of train, val and test. A
    target is one value per protein, or for --level residue one letter per residue (numbers: with spaces between them).

    Three trainings with different seeds are scored on the test set, with 95 % intervals. DIR gets model.h5 (for
    prott5nv predict), predictions.csv and result.json (for prott5nv report). NAME=VALUE changes any setting of
    conf/finetune.yaml, as in scripts/finetune.py, which is the same program.

    \b
    Examples:
      prott5nv finetune secondary_structure --model prott5nv.nemo
      prott5nv finetune gb1 task.split=sampled --mode lora
      prott5nv finetune melting.csv --level protein --label number --target-column Tm
      prott5nv finetune scl task.head.name=light_attention task.training.balanced=true seeds=[1,2,3,4,5]
    """
    from prott5nv.flip import require_extra

    require_extra()
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from prott5nv.cli.hydra_app import config_folder
    from prott5nv.errors import ProtT5nvError

    settings = {
        "mode": mode,
        "model.restore_encoder_path": model,
        "data_dir": data,
        "output_dir": output,
        "task.level": level,
        "task.label": label,
        "task.target_column": target_column,
        "task.sequence_column": sequence_column,
    }
    if task.endswith((".csv", ".csv.gz")):
        if not (level and label):
            raise click.UsageError("for a table of your own say --level residue|protein and --label class|number")
        name = task.replace("\\", "/").rpartition("/")[2].split(".")[0]
        head = {"residue": "convnet", "protein": "mlp"}[level]
        settings |= {"task.file": task, "task.name": name, "task.head.name": head}
        task = "custom"
    given = [f"{name}={_quoted(value)}" for name, value in settings.items() if value is not None]
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            cfg = compose("finetune", [f"task={task}", *given, *overrides])
        OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ProtT5nvError(" ".join(str(error).split())) from None

    from prott5nv.flip.finetune import finetune

    finetune(cfg)


def _quoted(value: str) -> str:
    """As Hydra's grammar wants text that may hold anything."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
