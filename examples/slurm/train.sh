#!/bin/bash
# Training on a SLURM cluster, one machine or many, that survives time limits and preemption.
#
#   sbatch examples/slurm/train.sh training/pretrain.py --config recipes/vpdd_metaworld_paper.yaml --mixed_precision bf16
#   ACCELERATE_CONFIG=recipes/accelerate/fsdp2.yaml sbatch --nodes 8 examples/slurm/train.sh training/pretrain.py ...
#
# Ten minutes before the time limit, or when the job is preempted, SLURM sends SIGTERM to this script. It hands it on;
# the run saves a checkpoint and ends with 143; the job is put back into the queue, and there `resume: auto`, which is
# the default, goes on from that checkpoint. A run that fails otherwise is not put back.
#
# output_dir and data.cache_dir have to be on a disk that all machines see. Submit from the repository's root.
#SBATCH --job-name=hf-vpdd
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@600
#SBATCH --output=%x-%j.log

set -u
config=${ACCELERATE_CONFIG:-recipes/accelerate/multi_node_bf16.yaml}
machines=${SLURM_JOB_NUM_NODES:-1}
gpus=${SLURM_GPUS_ON_NODE:-8}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

export OMP_NUM_THREADS=1
# The launcher kills its processes so many seconds after a SIGTERM; by default 30, too few to save a large model.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=540

stopped=0
hand_on() {
    stopped=1
    kill -TERM "$launched" 2>/dev/null # srun passes it to the launcher on every machine
}
trap hand_on TERM

# One launcher a machine; $SLURM_NODEID is the machine's number, known only there.
srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch --config_file "$0" --num_machines "$1" --num_processes "$2" \
    --machine_rank "$SLURM_NODEID" --main_process_ip "$3" --main_process_port 29500 "${@:4}"' \
    "$config" "$machines" "$((machines * gpus))" "$first" "$@" &
launched=$!

# `wait` returns when the signal comes, while the run still saves: wait until it is gone.
status=0
while true; do
    wait "$launched"
    status=$?
    kill -0 "$launched" 2>/dev/null || break
done
echo "the run ended with status $status"
if [ "$stopped" = 1 ] && [ "$status" != 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$status"
