"""Fine-tune a policy on few demonstrations (stage 3 of 3):

    accelerate launch training/finetune.py --config recipes/metaworld_tiny.yaml --episodes_per_task 5

Starts from the video model of stage 2 (--init_from). Arms of the comparison: --from_scratch true;
--objective regression (behaviour cloning); --trunk_lr_multiplier 0 (frozen trunk); --lora true. See --help.
"""

import sys

from hf_vpdd.training import run_finetune
from hf_vpdd.training.scripts import main


if __name__ == "__main__":
    sys.exit(main("finetune", run_finetune, __doc__))
