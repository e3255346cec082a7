"""What a card says of each kind of model, whoever trained it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """The words of one class of models.

    Args:
        what: What it does, a sentence or two. use: What it is meant for. limits: What holds for every model of it.
        tags: For the Hub's search. papers: Keys of `PAPERS`.
        kind: "policy", "video", "value", "tokenizer" or "encoder": how it is loaded.
    """

    what: str
    use: str
    limits: tuple[str, ...]
    tags: tuple[str, ...]
    papers: tuple[str, ...]
    kind: str


PAPERS = {
    "vpdd": (
        "H. He et al., *Learning an Actionable Discrete Diffusion Policy via Large-Scale Actionless Video "
        "Pre-Training*, NeurIPS 2024, arXiv 2402.14407."
    ),
    "gr1": (
        "H. Wu et al., *Unleashing Large-Scale Video Generative Pre-training for Visual Robot Manipulation*, ICLR "
        "2024, arXiv 2312.13139."
    ),
    "vptr": (
        "C. Bhateja et al., *Robotic Offline RL from Internet Videos via Value-Function Pre-Training*, arXiv "
        "2309.13041."
    ),
    "icvf": (
        "D. Ghosh, C. Bhateja, S. Levine, *Reinforcement Learning from Passive Data via Latent Intentions*, ICML 2023,"
        " arXiv 2304.04782."
    ),
    "metaworld": (
        "T. Yu et al., *Meta-World: A Benchmark and Evaluation for Multi-Task and Meta Reinforcement Learning*, arXiv "
        "1910.10897."
    ),
    "calvin": (
        "O. Mees et al., *CALVIN: A Benchmark for Language-Conditioned Policy Learning for Long-Horizon Robot "
        "Manipulation Tasks*, arXiv 2112.03227."
    ),
    "rlbench": "S. James et al., *RLBench: The Robot Learning Benchmark & Learning Environment*, arXiv 1909.12271.",
}

_POLICY_USE = (
    "Research on robot policies in simulation, comparison with other policies under the same protocol, and "
    "fine-tuning on demonstrations of one's own."
)
_POLICY_LIMITS = (
    "Nothing here has been checked for use around people or on a real robot: it knows no safety limits, no forces and "
    "no obstacles beyond what its demonstrations happened to show.",
    "It knows the cameras, sentences and action units of its processor. Another view, robot or wording is outside of "
    "what it has seen, unless a table above says what that costs.",
)
_VIDEO_LIMITS = (
    "It draws no actions. Fine-tune it on demonstrations first (training/finetune.py).",
    "What it imagines is a guess in the resolution of its video tokens, not a simulation: objects may fade or appear.",
)
FAMILIES = {
    "VPDDForRobotPolicy": Family(
        "An instruction-conditioned robot policy. It denoises the camera's future, as video tokens, together with a "
        "chunk of actions (VPDD, discrete diffusion).",
        _POLICY_USE, _POLICY_LIMITS, ("video-prediction", "discrete-diffusion", "imitation-learning", "vpdd"),
        ("vpdd",), "policy",
    ),
    "VPDDForVideoPrediction": Family(
        "A model of video, learned without actions: from one picture and a sentence it imagines the camera's future "
        "as video tokens (the first stage of VPDD).",
        "The start of a policy (init_from of training/finetune.py), and looking at what a robot would see.",
        _VIDEO_LIMITS, ("video-prediction", "discrete-diffusion", "vpdd"), ("vpdd",), "video",
    ),
    "VPDDVQVAE": Family(
        "A video tokenizer (VQ-VAE): short clips of one camera to a grid of codes, and back.",
        "The tokens of a VPDD model (init_from of training/pretrain.py).",
        ("It was trained on the data named above alone; others it restores worse.",),
        ("video-tokenizer", "vq-vae", "vpdd"), ("vpdd",), "tokenizer",
    ),
    "GR1ForRobotPolicy": Family(
        "An instruction-conditioned robot policy: a causal transformer that reads a sentence, states and pictures, "
        "and predicts the next actions and pictures (GR-1).",
        _POLICY_USE, _POLICY_LIMITS, ("video-prediction", "imitation-learning", "gr1"), ("gr1",), "policy",
    ),
    "GR1ForVideoPrediction": Family(
        "A causal transformer that predicts the camera's pictures a few steps later from a sentence and the pictures "
        "so far, trained on captioned video without actions (the first stage of GR-1).",
        "The start of a policy (init_from of training/finetune.py --model gr1).",
        _VIDEO_LIMITS[:1], ("video-prediction", "gr1"), ("gr1",), "model",
    ),
    "VPTRForValuePrediction": Family(
        "A value function learned from video without actions: how near a picture is to a goal (V-PTR, "
        "intent-conditioned values).",
        "Judging progress in video, choosing between imagined futures (value_model of RobotPolicy), and as the start "
        "of offline RL (training/offline_rl.py).",
        ("Values order pictures of what it was trained on; they are no probabilities and have no unit.",),
        ("value-function", "video-pretraining", "vptr"), ("vptr", "icvf"), "value",
    ),
    "VPTRForRobotPolicy": Family(
        "A robot policy of one picture: actor and critics of offline RL, whose encoders may start from values learned "
        "from video (V-PTR).",
        _POLICY_USE, _POLICY_LIMITS, ("offline-rl", "value-function", "vptr"), ("vptr",), "policy",
    ),
    "VPTRModel": Family(
        "The picture encoder of V-PTR.", "The start of values or policies.", (), ("video-pretraining", "vptr"),
        ("vptr",), "model",
    ),
}  # fmt: skip
OTHER = Family("A model of hf_vpdd.", "Research.", (), (), (), "model")


def family_of(architecture: str) -> Family:
    """The words of a class; plain ones for a class that is not listed."""
    return FAMILIES.get(architecture, OTHER)


def usage(kind: str, architecture: str, name: str, processor: dict) -> str:
    """Python lines that load a model of this kind and ask it something."""
    cameras = processor.get("cameras") or ["camera"]
    images = "{" + ", ".join(f'"{camera}": frame' for camera in cameras) + "}"
    tasks = processor.get("tasks")
    said = f'"{tasks[0]}"' if tasks else '"what to do"'
    state = '"state": state, ' if processor.get("state_stats") or processor.get("state_dim") else ""
    if kind == "policy":
        return (
            "from transformers import pipeline\n\n"
            f'policy = pipeline("robot-policy", "{name}", trust_remote_code=True)\n'
            f'out = policy({{"images": {images}, {state}"instruction": {said}}})\nout["actions"]'
        )
    if kind == "video":
        return (
            "from hf_vpdd import VPDDPipeline\n\n"
            f'pipe = VPDDPipeline.from_pretrained("{name}")\npipe({images}, {said}).videos'
        )
    if kind == "value":
        return (
            "from hf_vpdd import RobotPolicy\n\n"
            f'policy = RobotPolicy.from_pretrained("A/POLICY", value_model="{name}", value_goals="A/DATASET", '
            "num_candidates=8)\n# hf-vpdd value clip.mp4 --model " + name + "   draws the value of every frame"
        )
    if kind == "adapter":
        return (
            "import hf_vpdd\nfrom transformers import AutoModel, AutoProcessor\n\n"
            f'model = AutoModel.from_pretrained("{name}")  # its base model with the adapter\n'
            f'processor = AutoProcessor.from_pretrained("{name}")'
        )
    return (
        "from transformers import AutoModel\n\n"
        f'model = AutoModel.from_pretrained("{name}", trust_remote_code=True)  # a {architecture}'
    )
