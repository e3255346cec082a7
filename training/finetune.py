"""Fine-tune a policy on few demonstrations.

VPDD (stage 3 of 3), from the video model of stage 2 (--init_from):

    accelerate launch training/finetune.py --config recipes/metaworld_tiny.yaml --episodes_per_task 5

Arms of the comparison: --from_scratch true; --objective regression (behaviour cloning); --trunk_lr_multiplier 0
(frozen trunk); --lora true (adapters; --init_from ADAPTER trains one further, `hf-vpdd merge` makes it a policy).

GR-1 (stage 2 of 2), from the video model of stage 1, or from any GR-1 policy, e.g. the converted official one:

    accelerate launch training/finetune.py --model gr1 --config recipes/gr1_metaworld_tiny.yaml

See --help (after --model, for that family's options).
"""

import sys

from hf_vpdd.training import run_finetune, run_gr1_finetune
from hf_vpdd.training.scripts import main_of_family


if __name__ == "__main__":
    families = {"vpdd": ("finetune", run_finetune), "gr1": ("gr1_finetune", run_gr1_finetune)}
    sys.exit(main_of_family(families, __doc__))
