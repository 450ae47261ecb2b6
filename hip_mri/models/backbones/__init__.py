"""Frozen backbones: weights, engines that compute features, exports."""
