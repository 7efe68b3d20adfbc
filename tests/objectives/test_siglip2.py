"""SigLIP 2 is its parts: SigLIP's loss, captioning, and in the last part lightly's two losses; before it, nothing."""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tests.objectives.test_dino import keys, schedule
from tests.parity.reference import lightly, relative_error, torch
from tests.parity.weights import FORWARD, GRADIENT
from vitfm import config as config_lib
from vitfm import health, tree
from vitfm.config import ConfigError
from vitfm.data.facts import Facts
from vitfm.losses import diagnostics, distillation
from vitfm.models import caption_decoder, masking, two_towers
from vitfm.models.prototypes import Prototypes
from vitfm.objectives import base, siglip, siglip2

BATCH, SIZE, LENGTH, VOCABULARY, BEGINS = 4, 16, 6, 20, 5
FACTS = Facts(SIZE, 3, VOCABULARY, LENGTH, bos_id=1, eos_id=2, pad_id=0)
TOWER = {"hidden_dim": 16, "depth": 1, "num_heads": 2, "mlp_dim": 32}
PAIR = {"image": {"patch_size": 4, "mask_token": True, **TOWER}, "text": TOWER}
WEIGHTS = {"contrastive_weight": 0.5, "caption_weight": 0.7, "distill_weight": 1.5, "mask_weight": 0.25}
OPTIONS: dict[str, Any] = {
    **PAIR,
    **WEIGHTS,
    "prototypes": 24,
    "hidden_dim": 32,
    "bottleneck_dim": 8,
    "momentum": 0.9,
    "last_part": {"name": "switch", "start": 0.0, "end": 0.5, "length": BEGINS},
}


def made(data: Facts = FACTS, **options: Any) -> base.Objective:
    return siglip2.make(data=data, schedule=schedule, **{**OPTIONS, **options})


@functools.cache
def batch() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    mask = np.arange(LENGTH) < np.array([LENGTH, 4, 3, 5])[:, None]
    text = np.where(mask, rng.integers(3, VOCABULARY, mask.shape), 0)
    text[:, 0] = FACTS.bos_id
    views = {"global": draw(BATCH, 1, SIZE, SIZE, 3), "local": draw(BATCH, 3, 8, 8, 3)}
    return {"image": draw(BATCH, SIZE, SIZE, 3), "text": text, "text_mask": mask, "views": views}


@functools.cache
def variables() -> base.Variables:
    """As after some training: all parameters matter, and the teacher is not its student."""
    shapes = jax.eval_shape(made().init, jax.random.key(0), batch())
    rng = np.random.default_rng(1)
    drawn = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)
    scalars = {"logit_scale": np.float32(1.0), "logit_bias": np.float32(-0.5)}
    return base.Variables({**drawn.params, **scalars}, drawn.extra)


@functools.cache
def found(step: int) -> Any:
    """((loss, aux), gradients of parameters and of what no gradient may move)."""
    return _gradients()(variables().params, variables().extra, jnp.int32(step))


@functools.cache
def _gradients() -> Any:
    loss = lambda params, extra, step: made().loss(params, extra, batch(), keys(BATCH), step)
    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))


def parts(params: Any, extra: Any) -> dict[str, jax.Array]:
    """The four losses, put together from modules and losses that are tested by themselves."""
    own, b = lambda keys: jax.vmap(lambda key: jax.random.split(key, 3), out_axes=1)(keys), batch()
    towers = two_towers.towers(
        {**siglip2.IMAGE, **PAIR["image"]}, {"name": "text", **siglip.TEXT, **TOWER}, None, FACTS, jnp.float32
    )
    of_pairs = siglip.make(**PAIR, data=FACTS).loss(params, {}, b, None, jnp.int32(0))[0]
    _, for_captions, for_views = own(keys(BATCH))
    for_masks, _, _ = own(for_views)

    encoder = lambda params, x, **k: towers.image.apply({"params": params}, x, **k)
    decoder = caption_decoder.beside(towers.text, {}, parallel=True, dtype=jnp.float32)
    drawn = jax.vmap(jax.random.bernoulli)(for_captions)
    tokens = encoder(params["image"]["tower"], b["image"]).tokens
    logits = decoder.apply({"params": params["captioner"]}, b["text"], tokens, drawn)
    rows, places = np.nonzero(b["text_mask"][:, 1:])
    caption = -jax.nn.log_softmax(logits)[rows, places, b["text"][rows, places + 1]].mean()

    head = lambda params, name, x: Prototypes(24, 32, 8).apply({"params": params[name]}, x.reshape(-1, 16))
    teacher, whole, local = extra["teacher"], b["views"]["global"][:, 0], b["views"]["local"]
    order, shape = masking.noise(for_masks, 16), (BATCH, -1, 24)
    masked = masking.hidden(order, 8)
    assert drawn.shape == (BATCH,) and masked.shape == (BATCH, 16)
    seen = encoder(teacher["encoder"], whole)
    scores = head(teacher, "head", seen.pooled).reshape(shape)
    views = encoder(params["image"]["tower"], local.reshape(-1, 8, 8, 3)).pooled
    views = head(params, "head", views).reshape(shape)
    none = jnp.zeros((BATCH, 1, 24))  # In place of the teacher's own view, which never counts.
    targets = distillation.centred(scores, extra["center"], 0.04)
    answers = distillation.centred(head(teacher, "patch_head", seen.tokens), extra["patch_center"], 0.04)
    guesses = head(params, "patch_head", encoder(params["image"]["tower"], whole, masked=masked).tokens)
    return {
        "loss/contrastive": of_pairs,
        "loss/caption": caption,
        "loss/distill": distillation.cross_view(targets, jnp.concatenate([none, views / 0.1], axis=1)),
        "loss/masked": distillation.weighted(answers, guesses / 0.1, masked.reshape(-1) / masked.sum()),
    }


@functools.cache
def expected() -> tuple[dict[str, jax.Array], dict[str, Any]]:
    """The losses and the gradient of each."""
    return jax.jit(lambda params, extra: (parts(params, extra), jax.jacrev(parts)(params, extra)))(
        variables().params, variables().extra
    )


@pytest.mark.parametrize("step", [0, BEGINS - 1, BEGINS, 9])
def test_loss_and_gradients_are_those_of_its_parts(step: int):
    """Before the last part they are exactly those without it."""
    factors = {f"loss/{name.removesuffix('_weight')}": weight for name, weight in WEIGHTS.items()}
    factors["loss/masked"] = factors.pop("loss/mask")
    on = step >= BEGINS
    for name in ("loss/distill", "loss/masked"):
        factors[name] *= 0.5 * on
    losses, gradients = expected()
    (value, aux), (grads, of_extra) = found(step)
    for name, loss in losses.items():
        assert loss > 0.1
        assert relative_error(aux.metrics[name], loss) < FORWARD if factors[name] else aux.metrics[name] == 0
    assert value == pytest.approx(float(sum(factors[name] * loss for name, loss in losses.items())), rel=1e-5)
    summed = jax.tree.map(lambda *each: sum(map(np.multiply, factors.values(), each)), *(gradients[n] for n in factors))
    for (name, ours), theirs in zip(tree.named_leaves(grads), jax.tree.leaves(summed), strict=True):
        moved = on or not name.startswith(("head", "patch_head", "image/tower/mask_token"))
        assert np.any(ours) == moved, name
        if moved:
            assert relative_error(ours, theirs) < GRADIENT, name
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(of_extra))
    assert aux.metrics["last_part"] == on
    for name in ("center", "patch_center"):
        assert np.array_equal(aux.extra[name], variables().extra[name]) != on


def test_losses_and_centres_equal_lightly():
    rng = np.random.default_rng(0)
    drawn = lambda *shape: rng.normal(size=shape).astype(np.float32)
    views, patches, prototypes = 3, 5, 17
    teacher, student, center = drawn(BATCH, 1, prototypes), drawn(BATCH, views, prototypes), drawn(prototypes)
    hidden, guesses = drawn(BATCH, patches, prototypes), drawn(BATCH, patches, prototypes)
    temperatures = {"teacher_temp": 0.05, "student_temp": 0.1, "center_momentum": 0.9}
    of_views = lightly.loss.DINOLoss(prototypes, **temperatures)
    of_views.center.copy_(torch.tensor(center))
    of_patches = lightly.loss.IBOTPatchLoss(prototypes, **temperatures)
    of_patches.center.center = torch.tensor(center)[None]
    theirs = [torch.tensor(x, requires_grad=True) for x in (student, guesses)]
    mask = torch.arange(3 * 3).reshape(1, 3, 3).repeat(BATCH, 1, 1) < patches
    own = torch.zeros(BATCH, prototypes)  # The teacher's view, which the student does not see.
    distill = of_views([torch.tensor(teacher[:, 0])], [own, *theirs[0].unbind(1)])
    masked = of_patches(torch.tensor(hidden).flatten(0, 1), theirs[1].flatten(0, 1), mask)
    (distill + masked).backward()

    def ours(student: jax.Array, guesses: jax.Array) -> tuple[jax.Array, Any]:
        answers = [distillation.centred(x, center, 0.05) for x in (teacher, hidden)]
        pairs = zip(answers, (student, guesses), strict=True)
        losses = [distillation.by_example(*pair, 0.1).mean() for pair in pairs]
        return sum(losses), losses

    (_, losses), grads = jax.value_and_grad(ours, (0, 1), has_aux=True)(student, guesses)
    assert relative_error(losses[0], distill) < FORWARD and relative_error(losses[1], masked) < FORWARD
    assert all(relative_error(a, b.grad) < GRADIENT for a, b in zip(grads, theirs, strict=True))
    last = siglip2.Student(None, {}, 0.5, 0.1, 0.9)
    rows = {"scores": teacher, "patch_scores": hidden.mean(1)}
    after = last.centred({"center": center, "patch_center": center}, rows)
    assert relative_error(after["center"], of_views.center[0, 0]) < FORWARD
    assert relative_error(after["patch_center"], of_patches.center.value[0]) < FORWARD


def test_the_recipe_holds_still_what_has_no_gradient_before_the_last_part_and_nothing_else():
    config = config_lib.load_file(str(tiny.ROOT / "configs/siglip2.py:tiny"))
    ((pattern, _),) = config.optim.freeze
    start = variables()
    loss = lambda params: made().loss(params, start.extra, batch(), keys(BATCH), jnp.int32(0))[0]
    grads = tree.named_leaves(jax.jit(jax.grad(loss))(start.params))
    assert {name for name, grad in grads if not np.any(grad)} == {name for name, _ in grads if re.search(pattern, name)}


def test_the_teacher_is_its_student_when_the_last_part_begins_and_follows_it_from_there():
    objective, start = made(), variables()
    student = {"encoder": start.params["image"]["tower"], **{n: start.params[n] for n in ("head", "patch_head")}}
    after = jax.jit(lambda step: objective.after_update(start.params, start.extra, step))
    before = after(jnp.int32(BEGINS - 1))
    for extra in (before, objective.started(start.params, start.extra)):
        jax.tree.map(np.testing.assert_array_equal, extra["teacher"], student)
        np.testing.assert_array_equal(extra["center"], start.extra["center"])
    kept = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, start.extra["teacher"], student)
    following = after(jnp.int32(BEGINS))["teacher"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), following, kept)
    assert objective.accumulate == "cached"


def test_the_decoder_writes_what_its_forward_pass_chooses():
    towers = two_towers.towers({"name": "vit", **PAIR["image"]}, {"name": "text", **TOWER}, None, FACTS, jnp.float32)
    decoder = caption_decoder.beside(towers.text, {"depth": 2}, parallel=True, dtype=jnp.float32)
    context = np.random.default_rng(2).normal(size=(BATCH, 5, 16)).astype(np.float32)
    shapes = jax.eval_shape(decoder.init, jax.random.key(0), batch()["text"], context)["params"]
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.6, leaf.shape).astype(np.float32), shapes)
    written = np.asarray(jax.jit(caption_decoder.writing(decoder, {}, FACTS))(params, context))
    forward = jax.jit(lambda text, parallel: decoder.apply({"params": params}, text, context, parallel))
    logits = np.asarray(forward(written, np.zeros(BATCH, bool)))
    for row, chosen in zip(written, logits.argmax(-1), strict=True):
        end = [*np.nonzero(row == FACTS.eos_id)[0], LENGTH - 1][0]
        assert row[0] == FACTS.bos_id and not row[end + 1 :].any()
        np.testing.assert_array_equal(row[1 : end + 1], chosen[:end])
    assert len({tuple(row) for row in written}) > 1  # It looks at the image.
    half, other = np.arange(BATCH) < 2, np.where(written == 9, 8, 9)
    both = [np.asarray(forward(text, half)) for text in (written, other)]
    np.testing.assert_array_equal(both[0][half], both[1][half])  # All at once: no text is seen...
    assert np.abs(both[0] - both[1])[~half].max() > 0.01
    np.testing.assert_allclose(both[0][~half], logits[~half], rtol=1e-5, atol=1e-5)
    assert np.abs(np.diff(both[0][half], axis=1)).min(-1).max() > 1e-4  # ... but places are told apart.


def test_what_is_not_measured_warns_of_nothing():
    ranges, told, late = made().healthy, [], set(diagnostics.of_teacher(24))
    assert set(ranges) == late | set(diagnostics.PAIRS)
    program, bar = types.SimpleNamespace(total=10), types.SimpleNamespace(note=told.append)
    session = types.SimpleNamespace(program=program, warned=set(), bar=bar)
    marks = lambda step, last_part: health.marks(session, step, metrics | {"last_part": last_part}, ranges)
    metrics = dict.fromkeys(late, 0.0) | dict.fromkeys(diagnostics.PAIRS, -2.0)
    assert marks(4, 0.0) == {}
    assert marks(5, 0.5) == {} and not told
    assert len(marks(6, 1.0)) == len(told) == len(late)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": Facts(SIZE, 3, VOCABULARY, LENGTH)}, "beginning token"),
        ({"image": {**PAIR["image"], "mask_token": False}}, "mask_token = True"),
        ({"captioner": {"num_heads": 5}}, r"objective\.captioner: .* num_heads = 5"),
        (
            {"image": {**PAIR["image"], "patch_dropout": 0.25}},
            r"image\.patch_dropout = 0\.25 leaves patches",
        ),
        ({"momentum": 1.0}, "momentum must not end at 1"),
        ({"momentum": {"name": "cosine", "start": 0.9, "end": 1.0}}, "momentum must not end at 1"),
        ({"momentum": {"name": "cosine", "start": 0.9}}, r"objective\.momentum.*end"),
        ({"parallel": 1.5}, r"parallel = 1\.5"),
        ({"mask_ratio": 1.0}, r"mask_ratio = 1\.0"),
        ({"prototypes": 1}, "prototypes = 1 must be at least 2"),
        ({"teacher_temperature": 0.0}, "teacher_temperature = 0.0 must be above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(options: Mapping[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        made(**options)


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ({"global": (1, 16)}, "config.data.views has 1 'global'"),
        ({"global": (2, 16), "local": (2, 8)}, "config.data.views has 2 'global', 2 'local'"),
        ({"global": (1, 16), "local": (2, 10)}, "10 x 10 do not divide"),
    ],
)
def test_other_views_are_refused_before_anything_compiles(views: Mapping[str, tuple[int, int]], message: str):
    made_of = {name: np.zeros((1, count, size, size, 3), np.float32) for name, (count, size) in views.items()}
    with pytest.raises(ConfigError, match=message):
        jax.eval_shape(made().init, jax.random.key(0), {**batch(), "views": made_of})
