"""Pre-train the video denoiser on recordings without actions (stage 2 of 3):

    accelerate launch training/pretrain.py --config recipes/metaworld_tiny.yaml

Starts from the VQ-VAE of stage 1 (--init_from). Options override the recipe: --steps 2000 --batch_size 48. See --help.
"""

import sys

from hf_vpdd.training import run_pretrain
from hf_vpdd.training.scripts import main


if __name__ == "__main__":
    sys.exit(main("pretrain", run_pretrain, __doc__))
