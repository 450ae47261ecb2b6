"""From images to frozen features, a trained head, one saved model and its scores."""

import os

# TensorFlow reads these when it loads.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # keep its chatter off the console
os.environ.setdefault("TF_DETERMINISTIC_OPS", "1")  # the same training gives the same bits, also on a busy machine
