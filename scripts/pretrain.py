"""Pretrain ProtT5nv on the folder that `prott5nv prepare uniref50` wrote, and export a .nemo file.

    python scripts/pretrain.py model=small model.data.dataset_path=DIR trainer.max_steps=2000
    python scripts/pretrain.py model.data.dataset_path=DIR trainer.devices=8 trainer.num_nodes=4

Every setting of conf/pretrain.yaml and conf/model.yaml can be overridden by its dotted name; `--cfg job`
shows the result. The same command again goes on where the last one stopped.
"""

from omegaconf import DictConfig

from prott5nv.cli.hydra_app import register_presets, run


def main(cfg: DictConfig) -> None:
    # NeMo takes seconds to import; a misspelt override has failed by now.
    from prott5nv.pretraining.trainer import pretrain

    pretrain(cfg)


if __name__ == "__main__":
    run(main, "pretrain", register_presets)
