"""One-shot inference: transformers' task "robot-policy" and diffusers' VPDDPipeline. Loaded when first used."""

_HOME = {
    "RobotPolicyPipeline": ".robot_policy",
    "VPDDPipeline": ".pipeline_vpdd",
    "VPDDPipelineOutput": ".pipeline_vpdd",
}

__all__ = list(_HOME)


def __getattr__(name):
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(_HOME[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
