"""From images to frozen features, a trained head, one saved model and its scores."""

import os

os.environ.setdefault(
    "TF_CPP_MIN_LOG_LEVEL", "3"
)  # TensorFlow reads it when it loads: keep its chatter off the console
