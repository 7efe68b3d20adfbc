"""CoCa equals open_clip's `CoCa` and `CoCaLoss`: embeddings, logits, loss, and the gradient of every parameter."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity.family import randomise
from tests.parity.reference import open_clip, relative_error, torch
from tests.parity.weights import FORWARD, GRADIENT, worst
from vitfm.data.facts import Facts
from vitfm.interop import weights
from vitfm.interop.families import coca as family
from vitfm.objectives import base, coca

VOCABULARY, LENGTH, SIZE, BATCH, HEADS = 30, 9, 24, 5, 2
FACTS = Facts(SIZE, 3, VOCABULARY, LENGTH, bos_id=1, eos_id=2, pad_id=0)


@dataclasses.dataclass(frozen=True)
class Case:
    """One architecture of both sides; with `two_mlps = False` open_clip's inner MLPs give nothing."""

    kind: bool | str = True
    width: int = 64
    embed_dim: int = 32
    quick: bool = False
    correct_mask: bool = False
    two_mlps: bool = True
    layers: int = 1

    @property
    def model(self) -> dict[str, Any]:
        """open_clip's `model_cfg`."""
        sizes = {"width": self.embed_dim, "heads": HEADS, "layers": self.layers, "context_length": LENGTH}
        sizes |= {"vocab_size": VOCABULARY, "mlp_ratio": 2}
        vision = {"image_size": SIZE, "patch_size": 8, "width": self.width, "head_width": 16, "layers": self.layers}
        pool = {"attentional_pool": self.kind, "attn_pooler_queries": 5, "attn_pooler_heads": HEADS}
        return {
            "embed_dim": self.embed_dim,
            "quick_gelu": self.quick,
            "vision_cfg": {**vision, **pool, "output_tokens": True},
            "text_cfg": {**sizes, "embed_cls": True, "output_tokens": True},
            "multimodal_cfg": sizes,
        }


CASES = {
    "as open_clip's are": Case(quick=True, layers=2),
    "cascaded poolers, one width": Case("cascade", width=32, correct_mask=True),
    "parallel poolers, blocks with one MLP": Case("parallel", width=32, two_mlps=False),
}


class Pair:
    """The same model with the same weights on both sides, and a batch."""

    def __init__(self, case: Case):
        self.case = case
        self.theirs = open_clip.coca_model.CoCa(**case.model).eval()
        randomise(self.theirs, seed=1)  # `text_decoder.text_projection` too, which open_clip leaves uninitialised.
        self.theirs.text.correct_cls_mask = case.correct_mask
        if not case.two_mlps:
            for block in self.theirs.text_decoder.resblocks:
                torch.nn.init.zeros_(block.mlp.c_proj.weight), torch.nn.init.zeros_(block.mlp.c_proj.bias)
        spec = family.open_clip_read({"model_cfg": case.model})
        spec["captioner"]["two_mlps"] = case.two_mlps
        spec["text"]["shifted_class_mask"] = not case.correct_mask
        self.rows = family.open_clip_rows(spec)
        if not case.two_mlps:
            self.rows = [row for row in self.rows if "inner_mlp" not in str(row[0])]
        rng = np.random.default_rng(0)
        lengths = np.array([LENGTH, 3, 7, 2, LENGTH - 1])
        mask = np.arange(LENGTH) < lengths[:, None]
        text = np.where(mask, rng.integers(3, VOCABULARY, mask.shape), 0)
        self.batch = {"text": text, "text_mask": mask}
        self.batch["image"] = rng.normal(size=(BATCH, SIZE, SIZE, 3)).astype(np.float32)
        self.objective = base.make(spec, data=FACTS)
        variables = jax.eval_shape(lambda: self.objective.init(jax.random.key(0), self.batch))
        self.like = {"params": variables.params}

    def converted(self, named: Mapping[str, np.ndarray]) -> Any:
        """Their tensors, values or gradients, as our parameters."""
        used = {name for _, names, _ in self.rows for name in weights.listed(names)}
        return weights.to_ours(self.rows, {name: named[name] for name in used}, self.like)["params"]

    def run_theirs(self) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Outputs and loss."""
        found = self.theirs(torch.tensor(self.batch["image"]).permute(0, 3, 1, 2), torch.tensor(self.batch["text"]))
        found["image_features"] = found["image_features"].reshape(BATCH, -1)  # [B,1,D] where poolers are two.
        loss = open_clip.loss.CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0, pad_id=0)
        return found, sum(loss(**found))


@pytest.mark.parametrize("name", CASES)
def test_outputs_loss_and_gradient_of_every_parameter_are_open_clips(name: str, monkeypatch: pytest.MonkeyPatch):
    both = Pair(CASES[name])
    theirs, theirs_loss = both.run_theirs()
    theirs_loss.backward()
    assert theirs["logits"].std() > 0.1 and theirs["image_features"].std() > 0.1
    params = both.converted({name: p.detach().numpy() for name, p in both.theirs.named_parameters()})
    kept: dict[str, jax.Array] = {}
    logits_of = coca.Model.logits

    def keep(self: coca.Model, *given: Any) -> jax.Array:
        kept["logits"] = logits_of(self, *given)
        return kept["logits"]

    monkeypatch.setattr(coca.Model, "logits", keep)

    @jax.jit
    def ours(params: Any) -> Any:
        def loss(params: Any) -> tuple[jax.Array, Any]:
            embeddings = both.objective.embed(params, {}, both.batch, None, jnp.int32(0))
            value, aux = both.objective.couple(params, {}, embeddings, both.batch, jnp.int32(0))
            found = {"image_features": embeddings["image"], "text_features": embeddings["text"]}
            return value, {**found, "logits": kept["logits"][:, :-1], "logit_scale": aux.metrics["logit_scale"]}

        return jax.value_and_grad(loss, has_aux=True)(params)

    (value, found), grads = ours(params)
    errors = {key: relative_error(array, theirs[key]) for key, array in found.items()}
    assert max(errors.values()) < FORWARD, errors
    assert relative_error(value, theirs_loss) < FORWARD
    named = {name: p.grad.numpy() for name, p in both.theirs.named_parameters()}
    assert worst(grads, both.converted(named)) < (GRADIENT,)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads))
