"""Stand-ins for ResNet50 and ConvNeXtTiny in tests: the same build and names, one narrow block a stage."""

from typing import Any


def build_small_resnet(*, include_top: bool, weights: None, input_tensor: Any, pooling: str) -> Any:
    """As `keras.applications.ResNet50`: the same stem, names and 2,048 features; 0.3 million parameters, not 24."""
    import keras

    layers = keras.layers
    value = layers.ZeroPadding2D(3, name="conv1_pad")(input_tensor)
    value = layers.Conv2D(64, 7, strides=2, name="conv1_conv")(value)
    value = layers.BatchNormalization(epsilon=1.001e-5, name="conv1_bn")(value)
    value = layers.Activation("relu", name="conv1_relu")(value)
    value = layers.ZeroPadding2D(1, name="pool1_pad")(value)
    value = layers.MaxPooling2D(3, strides=2, name="pool1_pool")(value)
    for stage, (channels, strides) in enumerate(((64, 1), (64, 2), (64, 2), (2048, 2)), start=2):
        value = _add_block(value, 32, channels, strides, f"conv{stage}_block1")
    features = layers.GlobalAveragePooling2D(name="avg_pool")(value)
    return keras.Model(keras.utils.get_source_inputs(input_tensor), features, name="resnet50")


def _add_block(value: Any, width: int, channels: int, strides: int, name: str) -> Any:
    import keras

    layers = keras.layers
    shortcut = layers.Conv2D(channels, 1, strides=strides, name=f"{name}_0_conv")(value)
    shortcut = layers.BatchNormalization(epsilon=1.001e-5, name=f"{name}_0_bn")(shortcut)
    for number, (filters, size, step) in enumerate(((width, 1, strides), (width, 3, 1), (channels, 1, 1)), start=1):
        value = layers.Conv2D(filters, size, strides=step, padding="same", name=f"{name}_{number}_conv")(value)
        value = layers.BatchNormalization(epsilon=1.001e-5, name=f"{name}_{number}_bn")(value)
        if number < 3:
            value = layers.Activation("relu", name=f"{name}_{number}_relu")(value)
    value = layers.Add(name=f"{name}_add")([shortcut, value])
    return layers.Activation("relu", name=f"{name}_out")(value)


def build_small_convnext(**arguments: Any) -> Any:
    """As `keras.applications.ConvNeXtTiny`, with the same 768 features."""
    from keras.src.applications.convnext import ConvNeXt

    return ConvNeXt(
        depths=[1] * 4,
        projection_dims=[16, 32, 64, 768],
        name="convnext_tiny",
        weights_name="convnext_tiny",
        **arguments,
    )
