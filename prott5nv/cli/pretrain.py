"""``prott5nv pretrain``: train a model from protein sequences; ``scripts/pretrain.py`` is the same program."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import click

from prott5nv.errors import ProtT5nvError
from prott5nv.extras import require_extra

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from prott5nv.cli.hydra_app import Score

logger = logging.getLogger(__name__)


# Hydra parses the arguments, so that its own flags work here too.
@click.command(
    context_settings={
        "help_option_names": ["-h", "--help"],
        "ignore_unknown_options": True,
        "max_content_width": 110,
    }
)
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED, metavar="[NAME=VALUE]...")
def command(overrides: tuple[str, ...]) -> None:
    """Pretrain a model on protein sequences by span corruption, and export a .nemo file.

    The training data are a folder that `prott5nv prepare uniref50` wrote from a FASTA file. Name the folder with
    model.data.dataset_path. NAME=VALUE changes a setting; `--cfg job` prints all settings with their values and exits.
    Paths need no quotes beyond those of the shell. The command needs the extra train.

    \b
    Most important settings:
      model=NAME                          architecture with training values: prott5nv (default), builtin, small, tiny
      model.data.dataset_path=DIR         folder of the training data (required)
      name=NAME                           name of the run and of its folder
      exp_manager.exp_dir=DIR             folder for all runs (default: results)
      trainer.max_steps=N                 number of optimizer steps
      trainer.devices=N                   number of GPUs, or of processes on a CPU
      trainer.precision=auto              auto, 32, bf16-mixed or 16-mixed
      trainer.val_check_interval=N        steps from one validation and checkpoint to the next
      model.global_batch_size=N           proteins per optimizer step, over all devices
      model.data.tokens_per_micro_batch=N tokens that a device processes at once; lower it if memory runs out
      model.optim.lr=X                    peak learning rate
      restore_from_path=FILE.nemo         start from the weights of this file

    Results are in EXP_DIR/NAME: NAME.nemo (the model), curves.png, settings.json, logs/ (for TensorBoard), and
    checkpoints/, which holds the newest and the best checkpoints. The same command again continues from the newest
    checkpoint. A command with other settings that change the result needs another name.

    \b
    Hydra's flags:
      --cfg job         print the settings and exit
      -m, --multirun    one run for each of several values, one after another on one device; the runs are named
                        NAME-0, NAME-1, ... unless the name differs by itself; a table
                        of their perplexities is printed at the end and
                        written to a file

    \b
    Examples:
      prott5nv prepare uniref50 uniref50.fasta.gz -o data/
      prott5nv pretrain model.data.dataset_path=data trainer.devices=8
      prott5nv pretrain model=small model.data.dataset_path=data trainer.max_steps=2000 name=small
      prott5nv pretrain --multirun model=tiny model.data.dataset_path=data trainer.max_steps=500 \\
        model.optim.lr=1e-3,3e-3 'name=lr-${model.optim.lr}'
    """
    if any(argument.startswith(("--config-name", "--config-path", "-cn", "-cp")) for argument in overrides):
        raise ProtT5nvError(
            "leave out --config-name and --config-path: the default is ProtT5nv, model=NAME selects a smaller preset, "
            "and --config-dir=DIR +GROUP=NAME adds a file of your own settings"
        )
    values = {argument.lower() for argument in overrides}
    if "do_training=false" in values and "do_testing=true" not in values:
        raise ProtT5nvError(
            "do_training=false and do_testing=false: there is nothing to do; `prott5nv prepare uniref50` prepares data"
        )
    require_extra("train", "pretraining")
    from prott5nv.cli.hydra_app import Program, run
    from prott5nv.pretraining.config import PretrainConfig
    from prott5nv.pretraining.presets import register

    # Hydra's parser expects its flags before the overrides; the order within both stays.
    arguments = sorted(overrides, key=_is_override)
    run(Program(_pretrain, _check, "pretrain", register, PretrainConfig, "name"), arguments)


def _is_override(argument: str) -> bool:
    return not argument.startswith("-") and ("=" in argument or argument.startswith("~"))


def _check(cfg: DictConfig) -> None:
    """Refuse wrong settings and folders. NeMo takes seconds to import, so this comes before."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if HydraConfig.get().mode == RunMode.MULTIRUN and cfg.trainer.devices not in (1, "1"):
        raise ProtT5nvError(
            f"trainer.devices={cfg.trainer.devices}: --multirun trains on one device only; on several devices, start "
            "a command for each run"
        )
    from prott5nv.pretraining.config import checked
    from prott5nv.pretraining.run_folder import checkpoint_to_continue

    checkpoint_to_continue(cfg, checked(cfg))


def _pretrain(cfg: DictConfig) -> Score | None:
    from prott5nv.cli.hydra_app import Score

    if "nemo" not in sys.modules:
        logger.info("loading PyTorch, Lightning, Megatron-Core and NeMo ...")
    from prott5nv.pretraining.trainer import pretrain

    perplexity = pretrain(cfg).validation_perplexity
    return None if perplexity is None else Score("validation perplexity", perplexity, perplexity)
