"""The stages: frames to tokens (vqvae), video to forecasts (pretrain), demonstrations to a policy (finetune)."""
