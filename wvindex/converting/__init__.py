"""Checkpoints and stores between the fused and the unfused form of latent attention's down-projections."""
