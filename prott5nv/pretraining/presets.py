"""Training values of the presets of :class:`prott5nv.ModelConfig`, and the choices that Hydra offers as ``model=``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hydra.core.config_store import ConfigStore

from prott5nv.model.config import ModelConfig
from prott5nv.pretraining.config import PretrainConfig

# Training values of the presets. With the 2,688 proteins per step of BioNeMo v1, a small model would take few, slow
# steps.
_PRESET_TRAINING: dict[str, dict[str, Any]] = {
    "builtin": {  # the recipe of the built-in model
        "global_batch_size": 384,
        "init_method": "mimetic",
        "data": {"masked_lm_prob": 0.36},
        "optim": {
            "name": "muon",
            "lr": 2e-3,
            "betas": [0.9, 0.98],
            "weight_decay": 0.1,
            "sched": {"name": "CosineAnnealing", "warmup_steps": 100},
        },
    },
    "small": {"global_batch_size": 64, "optim": {"lr": 1e-3}},
    "tiny": {"global_batch_size": 32, "optim": {"lr": 1e-3}},
}


def register() -> None:
    """Register the types, and each preset with its training values, in Hydra's ``ConfigStore``."""
    store = ConfigStore.instance()
    store.store(name="pretrain_schema", node=PretrainConfig)
    for name in ModelConfig.preset_names():
        values = asdict(ModelConfig.preset(name))
        del values["masked_lm_prob"]  # BioNeMo v1 has it under `data`, so conf/model.yaml gives its value there
        node = {"defaults": ["/model@_here_", "_self_"], **values, **_PRESET_TRAINING.get(name, {})}
        store.store(group="model", name=name, node=node)
