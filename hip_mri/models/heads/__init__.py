"""Heads: from features to the probability of a lesion, fitted on stored features."""
