"""Offline reinforcement learning on demonstrations: phases 2 and 3 of V-PTR in one run.

    accelerate launch training/offline_rl.py --model vptr --config recipes/vptr_metaworld_tiny.yaml

The first --prior_steps steps see the prior tasks alone; from there on a share --mixing of each batch does, the rest is
of the target tasks (--target_tasks, --target_root). Arms of the comparison: --init vptr | vip | tcn | scratch
(or vptr:FOLDER), --freeze_encoders, --lora true (adapters on the encoders), --skip_multitask, --objective bc
(behaviour cloning). See --help.
"""

import sys

from hf_vpdd.training import run_offline_rl
from hf_vpdd.training.scripts import main_of_family


if __name__ == "__main__":
    sys.exit(main_of_family({"vptr": ("offline_rl", run_offline_rl)}, __doc__))
