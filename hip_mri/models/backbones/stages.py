"""Divides networks at the operations through which everything passes, and into stages by the size of the maps."""

from typing import Any, Final

from hip_mri.models.keras_settings import Model

STAGES: Final = ("conv2", "conv3", "conv4", "conv5")
"""The last four stages of a network; maps become smaller at the beginning of each. Named as in He et al., CVPR 2016."""

MAX_SIZE_RATIO: Final = 0.75
"""Height of the maps, relative to the height before, at which a stage begins. Strides of 2 halve the maps, and a
convolution without padding makes them a little smaller."""


def find_cuts(network: Model) -> list[int]:
    """Find the positions among `network.operations` after which only the output of that operation is needed."""
    position_of = {id(operation.output): position for position, operation in enumerate(network.operations)}
    last_use = list(range(len(position_of)))
    for position, operation in enumerate(network.operations):
        for tensor in _list_inputs(operation):
            if (source := position_of.get(id(tensor))) is not None:
                last_use[source] = position
    cuts, needed_until = [], 0
    for position, last in enumerate(last_use):
        if needed_until <= position:
            cuts.append(position)
        needed_until = max(needed_until, last)
    return cuts


def _list_inputs(operation: Any) -> list[Any]:
    return operation.input if isinstance(operation.input, list) else [operation.input]


def list_operations_from(network: Model, stage: str) -> list[Any]:
    """List the operations of a network from the beginning of a stage to the end.

    Args:
        network: A network that computes maps of decreasing size, with or without further layers.
        stage: One of `STAGES`.
    """
    operations = network.operations
    cuts = [cut for cut in find_cuts(network) if len(operations[cut].output.shape) == 4]
    heights = [operations[cut].output.shape[1] for cut in cuts]
    last_before = [
        cut
        for cut, height, next_height in zip(cuts, heights, heights[1:], strict=False)
        if next_height <= MAX_SIZE_RATIO * height
    ]
    return operations[last_before[STAGES.index(stage) - len(STAGES)] + 1 :]
