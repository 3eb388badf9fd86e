#!/usr/bin/env bash
# Train the model that is part of the package, from a FASTA file to prott5nv/assets/builtin.nemo:
#
#     bash scripts/builtin.sh proteins.fasta.gz [NAME=VALUE]...
#
# If the headers name clusters as c50=..., each cluster is either in the training set or held out. The same command again
# continues where it stopped. NAME=VALUE changes a pretraining setting, such as trainer.max_steps=100. One H200 trains the
# model in five minutes, and two CPU cores in several days.
set -euo pipefail
fasta=$(realpath "$1")
shift
cd "$(dirname "$0")/.."

group=()
if [[ $(gzip -cdf "$fasta" | head -n 1 || true) == *" c50="* ]]; then
    group=(--group-by c50)
fi
if [[ ! -d results/corpus ]]; then
    prott5nv prepare uniref50 "$fasta" -o results/corpus --val 0.01 --test 0.01 "${group[@]}"
fi

common=(model=builtin model.data.dataset_path=results/corpus)
if nvidia-smi > /dev/null 2>&1; then
    common+=(trainer.devices=1 model.data.num_workers=8)
else
    common+=(trainer.devices=2 model.data.num_workers=0)
    export OMP_NUM_THREADS=1  # each of the two processes uses one core
    export THP_MEM_ALLOC_ENABLE=1  # PyTorch allocates large tensors in large memory pages, which saves page faults
fi
python scripts/pretrain.py name=builtin "${common[@]}" trainer.max_steps=3300 \
    trainer.val_check_interval=660 trainer.limit_val_batches=4 "$@"
# The perplexity for the model card: on the whole test split, with 15 % masked as in ProtT5nv's own training.
python scripts/pretrain.py name=builtin-test "${common[@]}" do_training=false do_testing=true \
    model.data.masked_lm_prob=0.15 restore_from_path=results/builtin/builtin.nemo
python scripts/ship_model.py results/builtin/builtin.nemo
