"""The inputs that a SavedModel can take; without TensorFlow, so that parsers of command lines can name them at once."""

INPUT_TYPES = ("image_tensor", "float_image_tensor", "encoded_image_string_tensor", "tf_example")
