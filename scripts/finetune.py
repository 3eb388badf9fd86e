"""Fine-tune on a FLIP task, or on a table of your own, score it beside baselines, and save one file that predicts.

    prott5nv prepare flip all --from http://data.bioembeddings.com/public/FLIP/fasta -o flip
    python scripts/finetune.py task=secondary_structure model.restore_encoder_path=prott5nv.nemo
    python scripts/finetune.py task=gb1 task.split=sampled mode=lora
    python scripts/finetune.py task=custom task.file=own.csv task.level=protein task.label=number task.head.name=mlp

Every setting of conf/finetune.yaml and conf/task/ can be overridden by its dotted name; `--cfg job` shows the result.
"""

from omegaconf import DictConfig

from prott5nv.cli.hydra_app import run


def main(cfg: DictConfig) -> None:
    # PyTorch takes a second to import; a misspelt override has failed by now.
    from prott5nv.flip.finetune import finetune

    finetune(cfg)


if __name__ == "__main__":
    run(main, "finetune", lambda: None)
