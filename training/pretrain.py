"""Pre-train on recordings without actions.

VPDD, the video denoiser (stage 2 of 3), from the VQ-VAE of stage 1 (--init_from):

    accelerate launch training/pretrain.py --config recipes/metaworld_tiny.yaml

V-PTR, intent-conditioned values (phase 1 of 3); --objective vip or tcn for the compared objectives:

    accelerate launch training/pretrain.py --model vptr --config recipes/vptr_metaworld_tiny.yaml

GR-1, prediction of the next frames (stage 1 of 2); --image_model and --text_model bring frozen towers:

    accelerate launch training/pretrain.py --model gr1 --config recipes/gr1_metaworld_tiny.yaml

Options override the recipe: --steps 2000 --batch_size 48. See --help (after --model, for that family's options).
"""

import sys

from hf_vpdd.training import run_gr1_pretrain, run_pretrain, run_value_pretrain
from hf_vpdd.training.scripts import main_of_family


if __name__ == "__main__":
    families = {
        "vpdd": ("pretrain", run_pretrain),
        "vptr": ("value_pretrain", run_value_pretrain),
        "gr1": ("gr1_pretrain", run_gr1_pretrain),
    }
    sys.exit(main_of_family(families, __doc__))
