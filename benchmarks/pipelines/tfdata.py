"""tf.data, as TensorFlow's input pipelines for ImageNet have it: only the crop is decoded, then resized bilinearly."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from benchmarks import pipelines


def load(path: tf.Tensor) -> tf.Tensor:
    """uint8 [224,224,3]."""
    encoded = tf.io.read_file(path)
    begin, size, _ = tf.image.sample_distorted_bounding_box(
        tf.image.extract_jpeg_shape(encoded),
        tf.zeros([0, 0, 4]),
        min_object_covered=0.0,
        area_range=pipelines.SCALE,
        aspect_ratio_range=pipelines.RATIO,
        use_image_if_no_bounding_boxes=True,
    )
    window = tf.concat([begin[:2], size[:2]], axis=0)
    image = tf.image.resize(tf.image.decode_and_crop_jpeg(encoded, window, channels=3), [pipelines.GLOBAL] * 2)
    image = tf.cast(tf.round(image), tf.uint8)
    return tf.ensure_shape(tf.image.random_flip_left_right(image), [pipelines.GLOBAL, pipelines.GLOBAL, 3])


def make(settings: Mapping[str, Any]) -> tuple[pipelines.Batches, dict[str, str]]:
    """So many threads in all."""
    files = sorted(str(path) for path in pathlib.Path(settings["root"]).glob("*/*.jpg"))
    images = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files), seed=0).repeat()
    images = images.map(load, num_parallel_calls=settings["workers"])
    options = tf.data.Options()
    options.threading.private_threadpool_size = settings["workers"]
    options.threading.max_intra_op_parallelism = 1
    batches = images.batch(settings["batch"], drop_remainder=True).prefetch(2).with_options(options)
    return ({"image": batch} for batch in batches.as_numpy_iterator()), {"tensorflow": tf.__version__}


if __name__ == "__main__":
    pipelines.serve(make)
