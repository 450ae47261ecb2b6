"""From images to frozen features, a trained head, one saved model and its scores."""

import os

# TensorFlow reads these when it loads. It keeps its chatter off the console, and does one operation after the other:
# two at a time share the threads differently on a busy machine, and sums come out in another order.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
