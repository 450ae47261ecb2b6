"""Backbones, features, heads, training, fine-tuning, cross-validation, saving and loading."""

import os

# TensorFlow reads these when it is loaded. It logs fatal errors only, and runs one operation after the other: with two
# at a time the division of threads, and so the order of summation, depends on the load of the machine.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
