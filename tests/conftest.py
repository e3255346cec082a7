"""What all tests share: one thread per process, no network, no leftovers.

The environment is set here, before any test module imports torch, mujoco or huggingface_hub.
"""

import os


# Each test process gets one core; torch's default of all cores makes two processes fight. Set values are respected.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
# Nothing in this suite may reach for the network: a test that tries fails at once instead of waiting.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest


@pytest.fixture(autouse=True)
def _same_random_numbers_every_time():
    """Seeds the global generators, so that a failure can be repeated by running the one test alone."""
    import random
    import sys

    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
