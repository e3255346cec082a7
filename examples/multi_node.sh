#!/bin/bash
# Several machines without a queue: the same command on each, with its number and the first one's address.
#
#   on the first:   examples/multi_node.sh 0 10.0.0.1 training/pretrain.py --config RECIPE.yaml
#   on the second:  examples/multi_node.sh 1 10.0.0.1 training/pretrain.py --config RECIPE.yaml
#
# MACHINES (2) and GPUS a machine (8) are taken from the environment, ACCELERATE_CONFIG as in train.sh. Ctrl-C or SIGTERM
# on the first machine: the run saves, all end; the same commands go on from there.
set -eu
rank=$1 first=$2
shift 2
machines=${MACHINES:-2}
export OMP_NUM_THREADS=1 TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-540}
exec accelerate launch --config_file "${ACCELERATE_CONFIG:-recipes/accelerate/multi_node_bf16.yaml}" \
    --num_machines "$machines" --num_processes "$((machines * ${GPUS:-8}))" --machine_rank "$rank" \
    --main_process_ip "$first" --main_process_port "${PORT:-29500}" "$@"
