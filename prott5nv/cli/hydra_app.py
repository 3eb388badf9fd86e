"""Hydra for the scripts: where the configuration lives, the presets, and mistakes in one line."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from prott5nv.model.config import ModelConfig
from prott5nv.errors import ProtT5nvError

# Training a small model with upstream's 2,688 proteins a step would take few, slow steps.
_TRAINING = {
    "builtin": {  # the recipe of docs/model_card.md
        "micro_batch_size": 16,
        "global_batch_size": 32,
        "init_method": "mimetic",
        "data": {"masked_lm_prob": 0.36},
        "optim": {
            "name": "muon",
            "lr": 2e-3,
            "betas": [0.9, 0.98],
            "weight_decay": 0.1,
            "sched": {"name": "CosineAnnealing", "warmup_steps": 50},
        },
    },
    "small": {"micro_batch_size": 32, "global_batch_size": 64, "optim": {"lr": 1e-3}},
    "tiny": {"micro_batch_size": 32, "global_batch_size": 32, "optim": {"lr": 1e-3}},
}


def config_folder() -> Path:
    """The folder of Hydra's files: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def register_presets() -> None:
    """Offer the shapes of :meth:`ModelConfig.preset`, each with how to train it, as Hydra's group ``model``."""
    store = ConfigStore.instance()
    for name in ModelConfig.preset_names():
        shape = asdict(ModelConfig.preset(name))
        shape.pop("masked_lm_prob")  # stands under data, where upstream has it
        node = {"defaults": ["/model@_here_", "_self_"], **shape, **_TRAINING.get(name, {})}
        store.store(group="model", name=name, node=node)


def run(function: Callable[[DictConfig], None], config_name: str, register: Callable[[], None]) -> None:
    """Run a function with the configuration that the command line composes.

    A user's mistake ends the process with exit code 2 and one line on standard error; ``HYDRA_FULL_ERROR=1`` gives
    the traceback.

    Parameters
    ----------
    function : callable
        Takes the composed configuration.
    config_name : str
        File in :func:`config_folder`, without its suffix.
    register : callable
        Registers the schemas of the configuration in Hydra's ``ConfigStore``.
    """
    quiet()
    register()
    show_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra itself would print a page

    def guarded(cfg: DictConfig | None = None) -> None:
        try:
            if cfg is None:
                main()
            else:
                OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
                function(cfg)
        except (ProtT5nvError, HydraException, OmegaConfBaseException) as error:
            if show_traceback:
                raise
            cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
            if _speaks_for_its_machine():
                print(f"error: {' '.join(str(cause).split())}", file=sys.stderr)
            sys.exit(2)

    main = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=config_name)(guarded)
    guarded()


def _speaks_for_its_machine() -> bool:
    """Whether this is the first process on its machine; a mistake is met by all, and said once."""
    return os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0"


def quiet() -> None:
    """Keep the start-up chatter of NeMo, Lightning and Megatron off the screen; errors still show."""
    warnings.filterwarnings("ignore")
    for name in ("nemo_logger", "nv_one_logger", "lightning", "lightning.pytorch", "megatron", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
