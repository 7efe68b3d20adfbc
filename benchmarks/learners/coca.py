"""CoCa by open_clip's `CoCa` and `CoCaLoss` in torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from benchmarks import workers
from benchmarks.learners import open_clip
from benchmarks.learners.peers import Batch, Learner, preprocess, worker
from benchmarks.sizes import HEAD_WIDTH, Size
from tests.parity.reference import CoCa, torch

CAPTION_WEIGHT, CONTRASTIVE_WEIGHT = 2.0, 1.0


def make(size: Size, facts: Mapping[str, Any]) -> Learner:
    """The learner of `benchmarks.step`: `image` uint8 [B,H,W,3 or 4] and `text` [B,T]."""
    model = _model(size, facts)
    criterion = open_clip.open_clip.loss.CoCaLoss(CAPTION_WEIGHT, CONTRASTIVE_WEIGHT, pad_id=facts["pad_id"])

    def loss(batch: Batch) -> torch.Tensor:
        found = model(preprocess(batch["image"]), torch.from_numpy(batch["text"]).long())
        return sum(criterion(**found))

    after = lambda: model.logit_scale.clamp_(0, math.log(100))
    return Learner(model, loss, size.learning_rate, after)


def _model(size: Size, facts: Mapping[str, Any]) -> CoCa:
    """Both halves of its decoder are as deep and wide as CLIP's text tower."""
    heads = size.text_width // HEAD_WIDTH
    decoder = {
        "width": size.text_width,
        "heads": heads,
        "layers": size.text_depth,
        "context_length": facts["text_length"],
        "vocab_size": facts["vocab_size"],
    }
    vision = {
        "image_size": size.image_size,
        "patch_size": size.patch_size,
        "width": size.width,
        "head_width": HEAD_WIDTH,
        "layers": size.depth,
        "attentional_pool": True,
        "attn_pooler_queries": size.queries,
        "attn_pooler_heads": heads,
        "output_tokens": True,
    }
    model = CoCa(
        embed_dim=size.text_width,
        vision_cfg=vision,
        text_cfg={**decoder, "embed_cls": True, "output_tokens": True, "pad_id": facts["pad_id"]},
        multimodal_cfg=decoder,
        pad_id=facts["pad_id"],
    )
    torch.nn.init.normal_(model.text_decoder.text_projection, std=size.text_width**-0.5)  # open_clip leaves it open.
    return model.train()


if __name__ == "__main__":
    workers.serve(worker(make, open_clip.versions()))
