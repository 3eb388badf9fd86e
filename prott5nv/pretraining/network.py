"""The network of pretraining as a NeMo model: its weights, its optimizer and its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, overload

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from nemo.core.classes import ModelPT
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from prott5nv.checkpoint import read_nemo, save_nemo
from prott5nv.checkpoint.parameter_names import megatron_to_prott5, prott5_to_megatron
from prott5nv.errors import ProtT5nvError
from prott5nv.pretraining.config import architecture, as_dict
from prott5nv.pretraining.hardware import choose_compile
from prott5nv.pretraining.initialization import mimetic
from prott5nv.pretraining.megatron import MegatronProtT5, initialize_parallel
from prott5nv.pretraining.optimizers import make_optimizer, make_schedule, parameter_groups
from prott5nv.pretraining.resume import read_model, tensor_shapes
from prott5nv.pretraining.tensor_parallel import gather_shards, map_state, own_shard, whole_shape

_Model = TypeVar("_Model", bound="NetworkModel")


class NetworkModel(ModelPT):
    """Base class of :class:`prott5nv.pretraining.model.ProtT5nvModel`, without data and training.

    Parameters
    ----------
    cfg : DictConfig
        The ``model`` section of ``conf/pretrain.yaml``.
    trainer : lightning.pytorch.Trainer, optional
    """

    def __init__(self, cfg: DictConfig, trainer: pl.Trainer | None = None):
        values = as_dict(cfg)
        super().__init__(OmegaConf.create(values), trainer)  # untyped, because NeMo adds keys of its own
        self.config = architecture(values)
        self.megatron: MegatronProtT5 | None = None
        self.initial_weights: dict[str, Tensor] | None = None  # by ProtT5's names, instead of random weights

    def setup(self, stage: str | None = None) -> None:
        """Divide the processes into groups, before NeMo asks for the data loaders."""
        initialize_parallel(self.cfg.get("tensor_model_parallel_size", 1))
        super().setup(stage)

    def configure_model(self) -> None:
        """Build the Megatron model, once process groups can exist."""
        if self.megatron is None:
            initialize_parallel(self.cfg.get("tensor_model_parallel_size", 1))
            torch.manual_seed(self.cfg.get("seed", 1234))
            recompute = self.cfg.get("activations_checkpoint_granularity") == "full"
            # Lightning builds models under the run's device. A GPU draws other numbers from the same seed, so the
            # initial weights are drawn on the CPU. Lightning moves the finished model.
            with torch.device("cpu"):
                self.megatron = MegatronProtT5(self.config, recompute=recompute, compiled=self.compiles)
                if self.cfg.get("init_method", "normal") == "mimetic":
                    self.load_weights(mimetic(self._whole_weights(), self.config, self.cfg.seed))
        if self.initial_weights is not None:
            self.load_weights(self.initial_weights)
            self.initial_weights = None
        # Otherwise Lightning copies the first rank's shards over those of the others before testing.
        self._ddp_params_and_buffers_to_ignore = [name for name, _ in self.named_parameters()]

    @property
    def root_device(self) -> torch.device:
        """The device on which the trainer runs; without a trainer, the CPU."""
        return torch.device("cpu") if self._trainer is None else self.trainer.strategy.root_device

    @property
    def compiles(self) -> bool:
        """Whether the layers are compiled, and all micro-batches have the same size."""
        choice = self.cfg.get("compile", False)
        if self._trainer is None or self.cfg.get("tensor_model_parallel_size", 1) != 1:
            return choice is True
        return choose_compile(choice, self.root_device, str(self.trainer.precision), self.trainer.max_steps)

    @property
    def built(self) -> MegatronProtT5:
        """The Megatron model, which exists after :meth:`configure_model`."""
        assert self.megatron is not None, "call configure_model() first"
        return self.megatron

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[dict[str, Any]]]:
        """Build the optimizer, without weight decay on biases and LayerNorms, and NeMo's learning-rate schedule."""
        optim = as_dict(self.cfg.optim)
        optimizer = make_optimizer(
            self._parameter_groups(),
            **{name: optim[name] for name in ("name", "lr", "betas", "eps", "weight_decay")},
            # The gradient scaler unscales before clipping, but the fused kernel would do so after clipping.
            fused=str(self.trainer.precision) != "16-mixed",
        )
        scheduler = make_schedule(optimizer, optim["sched"], self.trainer.max_steps)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def _parameter_groups(self) -> list[list[nn.Parameter]]:
        return parameter_groups(self.named_parameters(), self.cfg.optim.name)

    def _whole_shapes(self) -> dict[str, tuple[int, ...] | None]:
        """Return the shapes of the entries of the state dict, without tensor-parallel shards."""
        shapes = {name: whole_shape(parameter) for name, parameter in self.named_parameters()}
        return {name: shapes.get(name) for name in self.state_dict()}

    def save_to(self, save_path: str | Path) -> None:
        """Write a ``.nemo`` file that NeMo 1.x, BioNeMo v1 and this package can read.

        All ranks call this together, and the first one writes.

        Parameters
        ----------
        save_path : str or Path

        Raises
        ------
        ProtT5nvError
            On the first rank, if the file cannot be written.
        """
        weights = self._whole_weights()
        if dist.get_rank() == 0:
            try:
                Path(save_path).parent.mkdir(parents=True, exist_ok=True)
                save_nemo(save_path, self.config, weights)
            except (OSError, RuntimeError) as error:  # PyTorch raises RuntimeError if the disk is full
                reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
                raise ProtT5nvError(f"{save_path}: the model cannot be written: {reason}") from None

    def _whole_weights(self) -> dict[str, Tensor]:
        """Return the weights by the names of :class:`prott5nv.ProtT5`; all ranks call this together."""
        parameters = dict(self.built.named_parameters())
        return megatron_to_prott5(map_state(self.built.state_dict(), parameters, gather_shards))

    @overload
    @classmethod
    def restore_from(
        cls: type[_Model],
        restore_path: str | Path,
        trainer: pl.Trainer | None = ...,
        override_config: Mapping[str, Any] | None = ...,
        return_config: Literal[False] = ...,
    ) -> _Model: ...

    @overload
    @classmethod
    def restore_from(
        cls,
        restore_path: str | Path,
        trainer: pl.Trainer | None = ...,
        override_config: Mapping[str, Any] | None = ...,
        *,
        return_config: Literal[True],
    ) -> DictConfig: ...

    @classmethod
    def restore_from(
        cls: type[_Model],
        restore_path: str | Path,
        trainer: pl.Trainer | None = None,
        override_config: Mapping[str, Any] | None = None,
        return_config: bool = False,
    ) -> _Model | DictConfig:
        """Build a model from a ``.nemo`` file of this package or of NeMo 1.x, with the strict reader.

        Parameters
        ----------
        restore_path : str or Path
        trainer : lightning.pytorch.Trainer, optional
        override_config : mapping, optional
            Training settings that replace those of the file.
        return_config : bool, default False
            Whether to return only the configuration, as NeMo's own method does. The weights are then not read.

        Returns
        -------
        ProtT5nvModel or DictConfig

        Raises
        ------
        ProtT5nvError
            If the file is not a valid checkpoint.
        """
        checkpoint = read_nemo(restore_path, weights=not return_config)
        # to_nemo() nests some fields of the architecture under other keys, so they are added by their own names.
        values = {**checkpoint.config.to_nemo(), **asdict(checkpoint.config)}
        cfg = cast(DictConfig, OmegaConf.merge(OmegaConf.create(values), override_config or {}))
        if return_config:
            return cfg
        model = cls(cfg, trainer)
        model.configure_model()
        model.load_weights(checkpoint.state_dict)
        return model

    @classmethod
    def load_from_checkpoint(
        cls: type[_Model],
        checkpoint_path: str | Path,
        *,
        trainer: pl.Trainer | None = None,
        override_config: Mapping[str, Any] | None = None,
    ) -> _Model:
        """Build a model from a checkpoint of pretraining. No code of the file is run.

        Parameters
        ----------
        checkpoint_path : str or Path
            A ``.ckpt`` file.
        trainer : lightning.pytorch.Trainer, optional
        override_config : mapping, optional
            Training settings that replace those of the file.

        Returns
        -------
        ProtT5nvModel

        Raises
        ------
        ProtT5nvError
            If the file is not a valid checkpoint.
        """
        cfg, state = read_model(checkpoint_path, override_config or {})
        model = cls(cfg, trainer)
        model.configure_model()
        if tensor_shapes(state) != model._whole_shapes():
            raise ProtT5nvError(f"{checkpoint_path}: its weights do not fit its configuration")
        model.load_state_dict(map_state(state, dict(model.named_parameters()), own_shard))
        return model

    def load_weights(self, state_dict: dict[str, Tensor]) -> None:
        """Load whole weights.

        Parameters
        ----------
        state_dict : dict of Tensor
            By the names of :class:`prott5nv.ProtT5`. A tensor-parallel rank takes its shards of them.
        """
        shards = map_state(prott5_to_megatron(state_dict), dict(self.built.named_parameters()), own_shard)
        # Megatron's linear layers expect an empty extra state, which checkpoints do not have.
        missing, unexpected = self.built.load_state_dict(shards, strict=False)
        assert not unexpected and all(key.endswith("_extra_state") for key in missing)
