"""The three stages: frames -> tokens (vqvae), action-less video -> forecasts (pretrain), demonstrations -> policy (finetune)."""
