"""Images whose features a test chose, on as many of the virtual devices as it wants."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.evals.fake import World


def mesh_of(devices: int) -> Mesh:
    """Of the first devices, with two axes, as a run's."""
    return Mesh(np.array(jax.devices()[:devices]).reshape(-1, 1), ("data", "fsdp"))


def on_devices(mesh: Mesh) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`Context.on_devices` of a mesh."""
    split, whole = NamedSharding(mesh, PartitionSpec(mesh.axis_names)), NamedSharding(mesh, PartitionSpec())

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        jitted = jax.jit(function, out_shardings=whole)
        return lambda first, *arrays: jitted(first, *(jax.device_put(x, split) for x in arrays))

    return wrapped


def world(
    features: np.ndarray, labels: Sequence[Any], test_features: np.ndarray, test_labels: Sequence[Any], devices: int = 1
) -> World:
    """Sources "train" and "test" of images with these features [N, L, P, D], and with their labels as "kind"."""
    kinds = [*labels, *test_labels]
    examples = [{"image": number, "kind": kind} for number, kind in enumerate(kinds)]
    sources = {"train": examples[: len(labels)], "test": examples[len(labels) :]}
    made = World(sources, np.concatenate([features, test_features]).astype(np.float32), {}, devices)
    predict = {"features": made.context.predict["embed_image"]}
    mesh = mesh_of(devices)
    made.context = dataclasses.replace(made.context, predict=predict, on_devices=on_devices(mesh), mesh=mesh)
    return made


def clouds(
    images: int, classes: int, shape: tuple[int, ...], seed: int, spread: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Features [images, *shape] scattered around a centre a class, which is the same for every seed, and labels."""
    centres = np.random.default_rng(99).normal(size=(classes, *shape))
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(images) % classes)
    return (centres[labels] + spread * random.normal(size=(images, *shape))).astype(np.float32), labels
