"""Train the video tokenizer (stage 1 of 3):

    accelerate launch training/train_vqvae.py --config recipes/metaworld_tiny.yaml

Options override the recipe: --steps 2000 --learning_rate 1e-3 --model.codebook_size 512. See --help.
"""

import sys

from hf_vpdd.training import run_vqvae
from hf_vpdd.training.scripts import main


if __name__ == "__main__":
    sys.exit(main("vqvae", run_vqvae, __doc__))
