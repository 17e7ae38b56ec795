"""Kernels of the head for NVIDIA GPUs: group norm, ReLU, and the sum of the towers."""
