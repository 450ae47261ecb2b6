"""Comparison of candidates for the model by cross-validation on the training split."""
