"""Frozen backbones: architectures, weights, and the engines that compute features."""
