#!/usr/bin/env bash
# The recipe of the model inside the package, from any FASTA file to prott5nv/models/default.nemo:
#
#     bash scripts/builtin.sh proteins.fasta.gz [NAME=VALUE]...
#
# Clusters that headers name as c50=... stay on one side of the split. Given again, it goes on where it stopped; a name
# of conf/pretrain.yaml or conf/model.yaml with another value changes the training, such as trainer.max_steps=100.
set -euo pipefail
cd "$(dirname "$0")/.."
fasta=$(cd "$OLDPWD" && realpath "$1")
shift

[[ $(gzip -cdf "$fasta" | head -n 1 || true) == *" c50="* ]] && group=(--group-by c50) || group=()
[[ -d results/corpus ]] || prott5nv prepare uniref50 "$fasta" -o results/corpus --val 0.01 --test 0.01 "${group[@]}"

shape=(
    model=small model.num_layers=3 model.decoder_num_layers=1
    model.hidden_size=192 model.ffn_hidden_size=768 model.num_attention_heads=3
    model.data.dataset_path=results/corpus model.data.num_workers=0
)
export OMP_NUM_THREADS=1  # a process a core
python scripts/pretrain.py name=builtin "${shape[@]}" trainer.devices=2 trainer.max_steps=3500 \
    model.global_batch_size=32 model.micro_batch_size=16 model.data.masked_lm_prob=0.3 model.data.mean_span_length=1.6 \
    model.optim.name=muon model.optim.lr=2e-3 model.optim.weight_decay=0.1 'model.optim.betas=[0.9,0.98]' \
    model.optim.sched.name=CosineAnnealing model.optim.sched.warmup_steps=100 \
    trainer.val_check_interval=500 trainer.limit_val_batches=30 "$@"
# What a card reports: the whole test split, masked as ProtT5nv is.
python scripts/pretrain.py name=builtin-test "${shape[@]}" do_training=false do_testing=true \
    restore_from_path=results/builtin/builtin.nemo
python scripts/ship_model.py results/builtin/builtin.nemo
