"""Sparse autoencoders: one fast training step, and one small file per variant."""
