"""Metadata of the hf-vpdd package. Tool settings are in pyproject.toml, the tested versions in constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup


ROOT = Path(__file__).parent
VERSION = {}
exec((ROOT / "src/hf_vpdd/version.py").read_text(encoding="utf-8"), VERSION)

# Lower bounds are the oldest versions that the tests ran on (CONTRIBUTING.md says how to try one).
INSTALL_REQUIRES = [
    "accelerate>=1.15",
    "av>=17",
    "datasets>=5.2",
    "diffusers>=0.41",
    "huggingface_hub>=1.33",
    "numpy>=2.2",
    "packaging>=23",
    "pillow>=12",
    "pyarrow>=25",
    "pyyaml>=6",
    "safetensors>=0.8",
    "tokenizers>=0.23.1",
    "torch>=2.13",
    "tqdm>=4.66",
    "transformers>=5.20.2,<6",
]

# Only what pip can really install. CALVIN and RLBench are not on PyPI and need their own simulators (and PyPI's
# `pyrep` is an unrelated project), so their extras hold the helpers alone: `hf-vpdd doctor calvin` (or `rlbench`)
# explains the rest.
EXTRAS = {
    "metaworld": ["metaworld>=3.1.1", "gymnasium>=1.1", "mujoco>=3.3", "packaging>=23"],
    "calvin": ["gymnasium>=1.1", "scipy>=1.11"],
    "rlbench": ["gymnasium>=1.1", "scipy>=1.11"],
    # demonstrations in HDF5 files: robomimic, LIBERO
    "hdf5": ["h5py>=3.11"],
    # video of other bodies: Fetch, Adroit hand, Franka kitchen
    "embodiment": ["gymnasium-robotics>=1.4", "gymnasium>=1.1", "mujoco>=3.3", "packaging>=23"],
    "lora": ["peft>=0.21"],
    # the metrics as modules of `evaluate`; as plain functions they need nothing
    "metrics": ["evaluate>=0.4.6"],
    "serve": ["websockets>=13"],
    "train": ["tensorboard>=2.16"],
}
EXTRAS["demo"] = [*EXTRAS["metaworld"], *EXTRAS["train"]]  # the demo, and the quickstart, which trains
EXTRAS["dev"] = [
    *EXTRAS["demo"],
    *EXTRAS["lora"],
    *EXTRAS["embodiment"],
    *EXTRAS["hdf5"],
    *EXTRAS["metrics"],
    "hypothesis>=6",
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "ruff>=0.9",
    "setuptools>=77",  # a test builds the wheel
]
EXTRAS["all"] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})
# Other places for training curves, tested with these versions; not in `all`, since Trackio holds pillow below 13.
EXTRAS["trackio"] = ["trackio>=0.43"]
EXTRAS["wandb"] = ["wandb>=0.31"]

README = ROOT / "README.md"

setup(
    name="hf-vpdd",
    version=VERSION["__version__"],
    description="Robot policies from video pre-training with discrete diffusion, for transformers and diffusers",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={
        "hf_vpdd": ["checkpoints/**/*", "**/*.yaml", "**/*.json", "**/*.md", "**/*.html", "**/*.css", "**/*.js"]
    },
    include_package_data=False,
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["hf-vpdd=hf_vpdd.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
