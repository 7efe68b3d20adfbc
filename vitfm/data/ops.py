"""Arithmetic on one image, on the device. Nothing is drawn here: what is random comes in as a number.

Float images are [H,W,3] in [0, 1]. Those called 8-bit hold whole numbers from 0 to 255, as int32, and what is done to
them equals Pillow's arithmetic on bytes: RandAugment was published with that.
"""

from __future__ import annotations

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

LUMA = (0.299, 0.587, 0.114)  # Weights of ITU-R BT.601, as in Pillow and torchvision.

solarize = dm_pix.solarize  # (image, threshold): inverts what is at or above the threshold.
shift_hue = dm_pix.adjust_hue  # (image, turn): by a part of the whole circle.


def unit(image: jax.Array, low: float, high: float) -> jax.Array:
    """Values of any type -> float32, `low` as 0 and `high` as 1."""
    image = image.astype(jnp.float32)
    return (image - low if low else image) / (high - low)


def composite(image: jax.Array, behind: jax.Array, high: float = 255.0, low: float = 0.0) -> jax.Array:
    """uint8 [..., 3 or 4] -> `unit` [..., 3]; what is transparent shows `behind`, [3]."""
    colours = unit(image[..., :3], low, high)
    if image.shape[-1] == 3:
        return colours
    opacity = unit(image[..., 3:], 0.0, 255.0)
    return colours * opacity + behind * (1 - opacity)


def luma(image: jax.Array) -> jax.Array:
    """[H,W,3] -> [H,W], its brightness."""
    return image @ jnp.asarray(LUMA)


def blend(image: jax.Array, pole: jax.Array, factor: jax.Array) -> jax.Array:
    """The image moved away from the pole, or towards it where `factor` is below 1, as torchvision's blend does."""
    return jnp.clip(factor * image + (1 - factor) * pole, 0, 1)


def gaussian_blur(image: jax.Array, sigma: jax.Array, kernel_size: int) -> jax.Array:
    """Blurred by a Gaussian of `sigma` pixels, cut off at an odd `kernel_size`; reflected at the borders."""
    radius = kernel_size // 2
    weights = jnp.exp(-0.5 * jnp.square(jnp.arange(-radius, radius + 1) / sigma))
    weights = weights / weights.sum()
    for axis, size in enumerate(image.shape[:2]):
        widths = [(radius, radius) if i == axis else (0, 0) for i in range(3)]
        # The barrier keeps XLA from computing the first axis again for each of the second's shifts: four times as fast.
        padded = jax.lax.optimization_barrier(jnp.pad(image, widths, mode="reflect"))
        shifted = (jax.lax.slice_in_dim(padded, k, k + size, axis=axis) for k in range(kernel_size))
        image = sum(weight * part for weight, part in zip(weights, shifted, strict=True))
    return image


def inside(box: tuple[jax.Array, jax.Array, jax.Array, jax.Array], height: int, width: int) -> jax.Array:
    """bool [H,W]: the pixels of the box (top, left, bottom, right), its ends excluded."""
    top, left, bottom, right = box
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)
    return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)


# 8-bit images: moved pixel by pixel.


def rotation(degrees: jax.Array, height: int, width: int) -> jax.Array:
    """[2,3] for `affine`: turned counter-clockwise around the centre."""
    cosine, sine = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    turn = jnp.array([[cosine, -sine], [sine, cosine]])
    centre = jnp.array([width / 2, height / 2])
    return jnp.concatenate([turn, (centre - turn @ centre)[:, None]], axis=1)


def affine(image: jax.Array, matrix: jax.Array, fill: np.ndarray) -> jax.Array:
    """Each pixel of the result is the nearest one at `matrix` @ (x, y, 1), as in Pillow.

    Args:
      image: 8-bit [H,W,3].
      matrix: [2,3], from where a pixel's centre is in the result (the first is at 0.5, 0.5) to where it is in `image`.
      fill: 8-bit colour, [3], of what lies beyond the border.
    """
    height, width = image.shape[:2]
    x, y = jnp.arange(width) + 0.5, jnp.arange(height)[:, None] + 0.5
    column, row = (jnp.floor(a * x + b * y + c).astype(jnp.int32) for a, b, c in matrix)
    known = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    moved = image.reshape(-1, 3)[jnp.where(known, row * width + column, 0)]
    return jnp.where(known[..., None], moved, fill)


# 8-bit images: each value replaced by that of a table, int32 [3,256] or, for all channels alike, [256].


def replaced(image: jax.Array, table: jax.Array) -> jax.Array:
    """Each channel's values replaced by those of its table, [3,256]."""
    return table[jnp.arange(3), image]


def histogram(image: jax.Array) -> jax.Array:
    """int32 [3,256]: how often each value occurs in each channel."""
    return jnp.zeros((3, 256), jnp.int32).at[jnp.arange(3), image].add(1)


def inverted() -> jax.Array:
    return 255 - jnp.arange(256)


def posterized(bits: jax.Array) -> jax.Array:
    """Only the highest `bits` of the eight are kept."""
    return (jnp.arange(256) >> (8 - bits)) << (8 - bits)


def solarized(threshold: jax.Array) -> jax.Array:
    """Values from the threshold up are inverted."""
    return jnp.where(jnp.arange(256) < threshold, jnp.arange(256), inverted())


def solarized_add(addend: jax.Array) -> jax.Array:
    """The addend on top of the values below 128."""
    return jnp.where(jnp.arange(256) < 128, jnp.minimum(jnp.arange(256) + addend, 255), jnp.arange(256))


def blended(pole: jax.Array, factor: jax.Array) -> jax.Array:
    """`blend8` with one value for a pole: brightness with 0, contrast with the mean of the brightnesses."""
    return blend8(jnp.arange(256), pole, factor)


def autocontrasted(counts: jax.Array) -> jax.Array:
    """Each channel stretched from 0 to 255; `counts` is the histogram."""
    occurs = counts > 0
    low, high = occurs.argmax(-1, keepdims=True), 255 - occurs[:, ::-1].argmax(-1, keepdims=True)
    stretched = jnp.clip((jnp.arange(256) - low) * 255 // jnp.maximum(high - low, 1), 0, 255)
    return jnp.where(high > low, stretched, jnp.arange(256))


def equalized(counts: jax.Array) -> jax.Array:
    """Each channel's values spread evenly; `counts` is the histogram."""
    brightest = 255 - (counts > 0)[:, ::-1].argmax(-1, keepdims=True)
    step = (counts.sum(-1, keepdims=True) - jnp.take_along_axis(counts, brightest, axis=-1)) // 255
    below = jnp.cumsum(counts, -1) - counts
    spread = jnp.clip((below + step // 2) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step > 0, spread, jnp.arange(256))


# 8-bit images: blended with another.


def blend8(image: jax.Array, pole: jax.Array, factor: jax.Array) -> jax.Array:
    """`blend` of 8-bit images, rounded down."""
    return jnp.clip(factor * image + (1 - factor) * pole, 0, 255).astype(jnp.int32)


def smooth8(image: jax.Array) -> jax.Array:
    """Pillow's SMOOTH filter; the outermost pixels stay."""
    height, width = image.shape[:2]
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)))
    square = sum(padded[i : i + height, j : j + width] for i in range(3) for j in range(3))
    rounded = (2 * (square + 4 * image) + 13) // 26  # Of the sum of weights 1, and 5 in the middle, over 13.
    return jnp.where(inside((1, 1, height - 1, width - 1), height, width)[..., None], rounded, image)


def luma8(image: jax.Array) -> jax.Array:
    """[H,W,3] -> [H,W], rounded down."""
    return (image @ jnp.asarray(LUMA)).astype(jnp.int32)
