"""DINOv2's losses and whole objective equal lightly's on transformers' encoder, and NumPy's where none has them."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.losses.test_distillation import knopp
from tests.parity import family
from tests.parity.reference import lightly, relative_error, torch, transformers
from tests.parity.test_dino import HEAD, learned, learned_gradients, randomised
from tests.parity.weights import FORWARD, GRADIENT, converted, worst
from vitfm import tree
from vitfm.interop import weights
from vitfm.interop.families import dinov2_with_registers
from vitfm.losses import distillation
from vitfm.losses.gram import gram
from vitfm.losses.koleo import koleo
from vitfm.models import masking
from vitfm.objectives import dinov2

# The losses.


def masks_of(batch: int, side: int, counts: list[int]) -> np.ndarray:
    """bool [B,h,w]; 0 leaves an image whole."""
    rng = np.random.default_rng(0)
    masks = np.zeros((batch, side * side), bool)
    for row, count in zip(masks, counts, strict=True):
        row[rng.permutation(side * side)[:count]] = True
    return masks.reshape(batch, side, side)


@pytest.mark.parametrize("counts", [[5, 0, 2], [3, 3, 0], [1, 9, 4]])
def test_patch_loss_equals_lightly(counts: list[int]):
    batch, side, prototypes, most = 3, 3, 17, 9
    mask = masks_of(batch, side, counts)
    rng = np.random.default_rng(1)
    drawn = lambda *shape: (0.5 * rng.normal(size=shape)).astype(np.float32)
    teacher, student = drawn(batch, side**2, prototypes), drawn(batch, side**2, prototypes)
    center = drawn(prototypes)
    theirs = lightly.loss.IBOTPatchLoss(prototypes, teacher_temp=0.05, student_temp=0.1, center_momentum=0.9)
    theirs.center.center = torch.tensor(center)[None]
    flat, reference = mask.reshape(batch, -1), torch.tensor(student, requires_grad=True)
    value = theirs(torch.tensor(teacher)[flat], reference[torch.tensor(flat)], torch.tensor(mask))
    value.backward()

    places = masking.numbers(jnp.asarray(flat), most)
    shares = np.take_along_axis(flat, places, axis=1) / np.maximum(flat.sum(1), 1)[:, None] / batch
    at = lambda x: jnp.take_along_axis(x, places[..., None], axis=1)

    def loss(student: jax.Array) -> jax.Array:
        return distillation.weighted(distillation.centred(at(teacher), center, 0.05), at(student) / 0.1, shares)

    ours, gradient = jax.value_and_grad(loss)(jnp.asarray(student))
    assert value > 0.1
    assert relative_error(ours, value) < FORWARD
    assert relative_error(gradient, reference.grad) < GRADIENT
    if counts[0] == counts[1]:  # Else they count each patch alike, and we each masked view.
        after = distillation.next_center(center, at(teacher), 0.9, shares / shares.sum())
        assert relative_error(after, theirs.center.value[0]) < FORWARD


@pytest.mark.parametrize(("rows", "width", "scale"), [(2, 3, 1.0), (7, 16, 5.0), (33, 48, 0.1)])
def test_koleo_equals_lightly(rows: int, width: int, scale: float):
    features = (scale * np.random.default_rng(rows).normal(size=(rows, width))).astype(np.float32)
    reference = torch.tensor(features, requires_grad=True)
    value = lightly.loss.KoLeoLoss()(reference)
    value.backward()
    ours, gradient = jax.value_and_grad(koleo)(features)
    assert reference.grad.abs().max() > 1e-3
    assert relative_error(ours, value) < FORWARD
    assert relative_error(gradient, reference.grad) < GRADIENT


def test_gram_equals_numpy():
    rng = np.random.default_rng(0)
    student, anchor = rng.normal(size=(2, 3, 5, 8)).astype(np.float32), rng.normal(size=(2, 3, 5, 6)).astype(np.float32)

    def cosines(x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=-1, keepdims=True)
        return np.einsum("...nd,...md->...nm", x, x)

    ours = gram(student, anchor)
    theirs = ((cosines(student) - cosines(anchor)) ** 2).mean()
    assert theirs > 0.1
    assert relative_error(ours, theirs) < FORWARD


# The whole objective: masked encoder with registers, two heads, all losses, over views of two sizes.

BATCH, GRID, PROTOTYPES, PATCH_PROTOTYPES = 4, 4, 40, 24
TEMPERATURES = {"teacher_temperature": 0.05, "patch_temperature": 0.07}


def head(count: int, seed: int) -> Any:
    return randomised(lightly.models.modules.DINOProjectionHead(32, 64, 8, count), seed)


class Network(torch.nn.Module):
    """Encoder and heads."""

    def __init__(self, seed: int):
        super().__init__()
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = transformers.Dinov2WithRegistersConfig(**sizes, image_size=28, patch_size=7, num_register_tokens=3)
        self.encoder = transformers.Dinov2WithRegistersModel(config).eval()
        family.randomise(self.encoder, seed)
        self.head, self.patch_head = head(PROTOTYPES, seed + 1), head(PATCH_PROTOTYPES, seed + 2)

    def forward(self, images: np.ndarray, masked: np.ndarray | None = None) -> tuple[Any, Any]:
        """[B,H,W,C] -> class tokens [B,D], patches [B,N,D]."""
        pixels = torch.tensor(images).permute(0, 3, 1, 2)
        masked = None if masked is None else torch.tensor(masked)
        tokens = self.encoder(pixels, bool_masked_pos=masked).last_hidden_state
        return tokens[:, 0], tokens[:, 4:]


def objective_of(network: Network, **options: Any) -> tuple[Any, Any, Any]:
    """Our objective, rows for its encoder, and the shapes of its parameters."""
    config = {**network.encoder.config.to_dict(), "architectures": ["Dinov2WithRegistersModel"]}
    spec = dinov2_with_registers.read(config)
    ours = dinov2.make(
        model=spec["model"],
        prototypes=PROTOTYPES,
        patch_prototypes=PATCH_PROTOTYPES,
        hidden_dim=64,
        bottleneck_dim=8,
        **TEMPERATURES,
        **options,
        data=types.SimpleNamespace(image_size=28),
        schedule=lambda spec, where: lambda step: spec,
    )
    one = {"views": {"global": np.zeros((1, 2, 28, 28, 3)), "local": np.zeros((1, 2, 14, 14, 3))}}
    like = jax.eval_shape(lambda: ours.init(jax.random.key(0), one)).params
    return ours, dinov2_with_registers.rows(spec), like


def as_ours(network: Network, rows: Any, like: Any, gradients: bool = False) -> Any:
    """Its values, or their gradients, by our names."""
    of = learned_gradients if gradients else learned
    value = lambda p: (p.grad if gradients else p.detach()).numpy()
    encoder = {name: value(p) for name, p in network.encoder.named_parameters()}
    made = weights.to_ours(rows, encoder, {"params": {"encoder": like["encoder"]}})["params"]
    heads = {name: converted(list(HEAD), of(getattr(network, name)), like[name]) for name in ("head", "patch_head")}
    return {**made, **heads}


def distance(targets: Any, logits: Any) -> Any:
    return -(targets * torch.log_softmax(logits / 0.1, -1)).sum(-1)


def their_losses(
    networks: tuple[Network, ...], views: Mapping[str, np.ndarray], masked: np.ndarray, centers: Any
) -> dict[str, Any]:
    """The four losses of a student, a teacher and an anchor; `centers` of both heads, None for Sinkhorn and Knopp's."""
    student, teacher, anchor = networks
    views_of = lambda name: [views[name][:, i] for i in range(views[name].shape[1])]
    with torch.no_grad():
        seen = [teacher(view) for view in views_of("global")]
        kept = torch.stack([anchor(view)[1] for view in views_of("global")])
        scores = torch.stack([teacher.head(pooled) for pooled, _ in seen])  # [V,B,K]
        hidden = teacher.patch_head(torch.stack([patches for _, patches in seen])[masked])
    found = [student(view, masked[i]) for i, view in enumerate(views_of("global"))]
    pooled = [*(pooled for pooled, _ in found), *(student(view)[0] for view in views_of("local"))]
    logits, patches = [student.head(x) for x in pooled], torch.stack([patches for _, patches in found])
    guesses, mask = student.patch_head(patches[masked]), masked.reshape(-1, GRID, GRID)
    if centers:
        of_views = lightly.loss.DINOLoss(PROTOTYPES, teacher_temp=0.05, student_temp=0.1)
        of_views.center.copy_(torch.tensor(centers[0]))
        of_patches = lightly.loss.IBOTPatchLoss(PATCH_PROTOTYPES, teacher_temp=0.07, student_temp=0.1)
        of_patches.center.center = torch.tensor(centers[1])[None]
        losses = {"dino": of_views(list(scores), logits), "ibot": of_patches(hidden, guesses, torch.tensor(mask))}
    else:
        targets = torch.tensor(knopp(scores.numpy(), 0.05, 3)).float()
        pairs = [distance(targets[i], logits[j]).mean() for i in range(2) for j in range(4) if i != j]
        each = distance(torch.tensor(knopp(hidden.numpy(), 0.07, 3)).float(), guesses)
        counts = masked.sum(-1, keepdims=True).repeat(GRID**2, -1)[masked]
        losses = {"dino": sum(pairs) / len(pairs), "ibot": (each / torch.tensor(counts)).sum() / (2 * BATCH)}
    unit = lambda x: torch.nn.functional.normalize(x, dim=-1)
    similar = lambda x: unit(x) @ unit(x).transpose(-1, -2)
    koleo = sum(lightly.loss.KoLeoLoss()(x) for x, _ in found)
    return {**losses, "koleo": koleo, "gram": torch.nn.functional.mse_loss(similar(patches), similar(kept))}


@pytest.mark.parametrize("centering", ["centre", "sinkhorn"])
def test_objective_equals_transformers_under_lightly(centering: str):
    rng = np.random.default_rng(0)
    drawn = lambda *shape: rng.normal(size=shape).astype(np.float32)
    views = {"global": drawn(BATCH, 2, 28, 28, 3), "local": drawn(BATCH, 2, 14, 14, 3)}
    student, teacher, anchor = Network(10), Network(20), Network(30)
    scale = {"dino": 0.7, "ibot": 1.3, "koleo": 0.2, "gram": 1.7}
    options = {f"{name}_weight": weight for name, weight in scale.items()}
    ours, rows, like = objective_of(student, centering=centering, momentum=0.9, **options)
    params, kept = as_ours(student, rows, like), as_ours(teacher, rows, like)
    extra = {"teacher": kept, "gram": as_ours(anchor, rows, like)["encoder"]}
    centers = None
    if centering == "centre":
        centers = 0.2 * drawn(PROTOTYPES), 0.2 * drawn(PATCH_PROTOTYPES)
        extra |= {"center": centers[0], "patch_center": centers[1]}

    keys = jax.random.split(jax.random.key(0), BATCH)
    for_masks, _ = jax.vmap(jax.random.split, out_axes=1)(keys)
    masked, _, _ = masking.in_views(for_masks, 2, 1, (GRID, GRID), (0.1, 0.5), pairs=BATCH % 2 == 0)
    masked = np.array(masked).swapaxes(0, 1)  # [V,B,N]
    assert len(set(masked.sum((0, 2)))) > 1  # Of unequal sizes: there is padding.
    losses = their_losses((student, teacher, anchor), views, masked, centers)
    value = sum(scale[name] * loss for name, loss in losses.items())
    value.backward()

    loss = lambda params: ours.loss(params, extra, {"views": views}, keys, jnp.int32(0))
    (ours_value, aux), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    for name, expected in losses.items():
        assert relative_error(aux.metrics[name], expected) < FORWARD, name
    assert relative_error(ours_value, value) < FORWARD
    theirs = as_ours(student, rows, like, gradients=True)
    assert min(np.abs(leaf).max() for _, leaf in tree.named_leaves(theirs)) > 1e-6
    assert worst(grads, theirs) < (GRADIENT,)
    if centers:
        with torch.no_grad():
            seen = [teacher(views["global"][:, i]) for i in range(2)]
            hidden = teacher.patch_head(torch.stack([patches for _, patches in seen])).numpy()
            scores = torch.stack([teacher.head(pooled) for pooled, _ in seen]).numpy()
        flat = zip(hidden.reshape(-1, GRID**2, PATCH_PROTOTYPES), masked.reshape(-1, GRID**2), strict=True)
        means = [patches[mask].mean(0) for patches, mask in flat if mask.any()]
        assert relative_error(aux.extra["patch_center"], 0.9 * centers[1] + 0.1 * np.mean(means, 0)) < FORWARD
        assert relative_error(aux.extra["center"], 0.9 * centers[0] + 0.1 * scores.mean((0, 1))) < FORWARD
