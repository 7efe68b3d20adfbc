"""One imported model beside its reference: the same weights by the family's rows, the same outputs, the same gradients.

A family is `vitfm/interop/families/NAME.py`; its cases are `tests/parity/families/NAME.py`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from tests.parity.reference import CLIP, CoCa, relative_error, timm, torch
from vitfm import models, tree
from vitfm.data.facts import Facts
from vitfm.interop import channels, texts, weights
from vitfm.models import statistics
from vitfm.objectives import base

BATCH = 2


@dataclasses.dataclass(frozen=True)
class Case:
    """One configuration of a family.

    Attributes:
      family: the file in `vitfm/interop/families`.
      name: what is special about it: "non-square, without head".
      build: the reference in evaluation mode, as its library makes it; the test draws its weights again.
      image: height and width of what both see.
      outputs: (reference, pixels [B,C,H,W]) -> name -> tensor in our layout. `pooled` and `tokens` are our `Features`;
        `logits_per_image` is what a loss makes of both embeddings, [B,B]; any other name is a predict function of the
        objective ("logits", "embed_image", "embed_text", "reconstruct").
      format: whose configuration and names.
      options: overrides of the objective's model spec, such as the pretraining size.
      config: their `config.json` where the reference does not know it: timm's, {"architecture", "model_args"}.
      grids: rows and columns of each image's patches, where the model takes padded patches: the batch is then that of
        `vitfm.models.naflex`, on both sides, and `tokens` are 0 where there is padding.
      text: `text` int [B,T] and `text_mask` bool [B,T] for the predict functions that take these.
    """

    family: str
    name: str
    build: Callable[[], torch.nn.Module]
    image: tuple[int, int]
    outputs: Callable[[torch.nn.Module, torch.Tensor], dict[str, torch.Tensor]]
    format: Literal["transformers", "timm", "open_clip"] = "transformers"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    text: Mapping[str, np.ndarray] | None = None
    grids: tuple[tuple[int, int], ...] = ()

    def __str__(self) -> str:
        return f"{self.family}: {self.name} ({self.format})"

    @property
    def module(self) -> ModuleType:
        return importlib.import_module(f"vitfm.interop.families.{self.family}")

    def function(self, name: str) -> Callable[..., Any]:
        """`read`, `write`, `rows` of the family in this format."""
        return getattr(self.module, name if self.format == "transformers" else f"{self.format}_{name}")


def randomise(module: torch.nn.Module, seed: int) -> None:
    """Draws every parameter and running statistic again: matrices by their fan-in, norm scales and variances around 1.

    All else (biases, gates, layer scales, tokens, position tables) is large enough to matter; what is fixed stays.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = {id(m.weight) for m in module.modules() if "Norm" in type(m).__name__ and hasattr(m, "weight")}
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.requires_grad:
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if id(parameter) in norms or parameter.ndim == 0:
                parameter.copy_(1 + 0.3 * noise)
            elif parameter.shape[0] == 1 or parameter.numel() == max(parameter.shape):  # Vectors, and [1,N,D].
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))


def their_config(case: Case, module: torch.nn.Module) -> dict[str, Any]:
    """The `config.json` that their library writes beside this model."""
    if case.config is not None:
        return dict(case.config)
    return {**module.config.to_dict(), "architectures": [type(module).__name__]}


def facts(case: Case, config: Mapping[str, Any], channels: int) -> Facts:
    """Of the data that the objective is made for."""
    count = len(config.get("id2label") or ()) or config.get("num_classes") or 0
    text = {} if case.text is None else case.text
    length = text["text"].shape[1] if text else 0
    vocabulary = (config.get("text_config") or config.get("model_cfg", {}).get("text_cfg", {})).get("vocab_size", 0)
    return Facts(case.image[0], channels, vocabulary, length, tuple(map(str, range(count))), bos_id=1)


def padded(
    rng: np.random.Generator, grids: tuple[tuple[int, int], ...], spec: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """A batch of `vitfm.models.naflex`, with noise for padding, and a patch of it more than the largest image has."""
    patch_size = (spec.get("model") or spec["image"])["patch_size"]
    grid = np.array(grids, np.int32)
    sizes = grid.prod(1)
    patches = rng.normal(size=(len(grid), sizes.max() + 1, patch_size**2 * 3)).astype(np.float32)
    return {"patches": patches, "mask": np.arange(patches.shape[1]) < sizes[:, None], "grid": grid}


class Pair:
    """The reference and ours with its weights, and a batch of images."""

    def __init__(self, case: Case, seed: int = 0):
        self.case, self.theirs = case, case.build().eval()
        randomise(self.theirs, seed)
        config = their_config(case, self.theirs)
        self.read = functools.partial(case.function("read"), config)
        if case.format == "timm":
            shapes = {name: tuple(tensor.shape) for name, tensor in self.theirs.state_dict().items()}
            self.read = functools.partial(self.read, shapes)
        self.imported = self.read()
        self.spec = self._overridden(self.imported)
        rng = np.random.default_rng(seed)
        channels = self._channels()
        if case.grids:
            self.image = padded(rng, case.grids, self.imported)
            self.pixels = {name: torch.tensor(array) for name, array in self.image.items()}
        else:
            self.image = rng.normal(size=(BATCH, *case.image, channels)).astype(np.float32)
            self.pixels = torch.tensor(self.image).permute(0, 3, 1, 2).contiguous()
        self.facts = facts(case, config, channels)
        context = {"data": self.facts, "dtype": jnp.float32, "schedule": lambda spec, where: lambda step: 0.0}
        self.objective = base.make(self.spec, **context)
        batch = {"image": self.image, "label": np.zeros(BATCH, np.int32), **(case.text or {})}
        variables = jax.eval_shape(lambda: self.objective.init(jax.random.key(0), batch))
        self.like = {"params": variables.params, "extra": variables.extra}
        self.rows = case.function("rows")(self.spec)
        self.unused = [pattern for pattern, _ in getattr(case.module, "UNUSED", ())]
        self.rng = rng

    def _overridden(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        key = "image" if spec["name"] in ("clip", "siglip", "coca") else "model"
        return {**spec, key: {**spec[key], **self.case.options}}

    def _channels(self) -> int:
        if self.case.grids:
            return 3
        first = next(p for p in self.theirs.parameters() if p.ndim == 4 and p.shape[0] > 1)  # The stem's filters.
        return first.shape[1]

    @property
    def tower(self) -> Any:
        """Our encoder alone."""
        key = "image" if self.spec["name"] in ("clip", "siglip", "coca") else "model"
        return models.make(self.spec[key], where=f"objective.{key}", dtype=jnp.float32)

    def is_unused(self, name: str) -> bool:
        named = any(name in weights.listed(theirs) for _, theirs, _ in self.rows)
        return not named and any(re.search(pattern, name) for pattern in self.unused)

    def tensors(self) -> dict[str, np.ndarray]:
        """Their state dict, without what no output of ours depends on."""
        state = self.theirs.state_dict()
        return {name: t.numpy().copy() for name, t in state.items() if not self.is_unused(name)}

    def computed(self) -> dict[str, np.ndarray]:
        """Those of their tensors that follow from the configuration."""
        make = getattr(self.case.module, "computed", lambda objective: {})
        return dict(make(self.spec))

    def learned(self) -> dict[str, np.ndarray]:
        return {name: tensor for name, tensor in self.tensors().items() if name not in self.computed()}

    def ours(self) -> dict[str, Any]:
        """Their weights as our `params` and `extra`."""
        return weights.to_ours(self.rows, self.learned(), self.like)

    def outputs(self, state: Mapping[str, Any], names: Any) -> dict[str, jax.Array]:
        """Ours, by the names of the case."""
        params = self.objective.evaluated(state["params"], state["extra"])
        found = {}
        if {"pooled", "tokens"} & set(names):
            encoder = params["encoder"] if "encoder" in params else params["image"]["tower"]
            features = self.tower.apply(statistics.variables(encoder), self.image)
            tokens = features.tokens if features.mask is None else features.tokens * features.mask[..., None]
            found = {"pooled": features.pooled, "tokens": tokens}
        if "logits_per_image" in names:
            found["logits_per_image"] = self._pairs(params)
        for name in set(names) - {"pooled", "tokens", "logits_per_image"}:
            text = (self.case.text["text"], self.case.text["text_mask"]) if "text" in name else (self.image,)
            found[name] = self.objective.predict[name](params, *jax.tree.map(jnp.asarray, text))
        return {name: found[name] for name in names}

    def _pairs(self, params: Mapping[str, Any]) -> jax.Array:
        """Cosines of all images and texts by the factor that the loss reports."""
        batch = {"image": self.image, **self.case.text}
        embedded = self.objective.embed(params, {}, batch, None, jnp.int32(0))
        _, aux = self.objective.couple(params, {}, embedded, batch, jnp.int32(0))
        return aux.metrics["logit_scale"] * embedded["image"] @ embedded["text"].T

    def gradients(self, theirs: Mapping[str, torch.Tensor]) -> tuple[Any, Any]:
        """Of one random linear functional of the outputs by every parameter: (ours, theirs in our names)."""
        along = {name: self.rng.normal(size=value.shape).astype(np.float32) for name, value in theirs.items()}
        self.theirs.zero_grad()
        sum((value * torch.tensor(along[name])).sum() for name, value in theirs.items()).backward()
        named = {name: p.grad for name, p in self.theirs.named_parameters() if not self.is_unused(name)}
        zeros = lambda name: torch.zeros(self.theirs.get_parameter(name).shape)
        named = {name: (zeros(name) if grad is None else grad).numpy() for name, grad in named.items()}
        named = {name: grad for name, grad in named.items() if name not in self.computed()}
        rows = [row for row in self.rows if weights.listed(row[0])[0].startswith("params/")]
        theirs_as_ours = weights.to_ours(rows, named, {"params": self.like["params"]})["params"]

        @jax.jit
        @jax.grad
        def ours(params: Any, extra: Any) -> jax.Array:
            found = self.outputs({"params": params, "extra": extra}, list(along))
            return sum((found[name] * along[name]).sum() for name in along)

        state = self.ours()
        return ours(state["params"], state["extra"]), theirs_as_ours

    def rebuilt(self) -> torch.nn.Module:
        """The reference again, from the configuration that we write."""
        written = self.case.function("write")(self.imported, len(self.facts.classes))
        special = ("bos_token_id", "eos_token_id", "pad_token_id")
        config = getattr(self.theirs, "config", None)
        theirs = config.get_text_config().to_dict() if self.case.text is not None and config else {}
        written = texts.with_texts(written, self.facts, {key: theirs[key] for key in special if key in theirs})
        written = channels.written(written, self.facts.channels)
        if self.case.format == "transformers":
            made = type(self.theirs)(type(self.theirs.config)(**written))
        elif self.case.format == "timm":
            arguments = {"num_classes": written["num_classes"], **written["model_args"]}
            made = timm.create_model(written["architecture"], **arguments)
        else:
            written["model_cfg"].pop("custom_text", None)  # It chooses the class.
            made = (CoCa if "multimodal_cfg" in written["model_cfg"] else CLIP)(**written["model_cfg"])
        return made.eval()


@dataclasses.dataclass(frozen=True)
class Errors:
    """What a case measured.

    Attributes:
      forward: the largest relative error of an output.
      gradient: of the gradient by a parameter.
      parameter: which one.
    """

    forward: float
    gradient: float
    parameter: str


def measured(pair: Pair) -> Errors:
    """Relative errors of outputs and gradients; asserts that the reference's outputs can show any."""
    theirs = pair.case.outputs(pair.theirs, pair.pixels)
    for name, value in theirs.items():
        assert name.startswith("embed_") or value.std() > 0.1, f"{name} hardly varies: {value.std():.3g}"
    ours = jax.jit(lambda state: pair.outputs(state, list(theirs)))(pair.ours())
    forward = max(relative_error(ours[name], value) for name, value in theirs.items())
    grads = pair.gradients(theirs)
    named = zip(tree.named_leaves(grads[0]), jax.tree.leaves(grads[1]), strict=True)
    gradient, parameter = max((error(a, b), name) for (name, a), b in named)
    return Errors(forward, gradient, parameter)


def error(ours: Any, theirs: Any) -> float:
    """Relative, and 0 where both are 0: an output need not depend on every parameter."""
    return 0.0 if not np.any(ours) and not np.any(theirs) else relative_error(ours, theirs)
