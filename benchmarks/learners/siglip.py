"""SigLIP by transformers' `SiglipModel` in torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks import workers
from benchmarks.learners.mae import vit
from benchmarks.learners.peers import Batch, Learner, preprocess, worker
from benchmarks.sizes import HEAD_WIDTH, Size
from tests.parity.reference import torch, transformers


def make(size: Size, facts: Mapping[str, Any]) -> Learner:
    """The learner of `benchmarks.step`: `image` uint8 [B,H,W,3 or 4] and `text` [B,T]."""
    text = {
        "vocab_size": facts["vocab_size"],
        "max_position_embeddings": facts["text_length"],
        "hidden_size": size.text_width,
        "num_hidden_layers": size.text_depth,
        "num_attention_heads": size.text_width // HEAD_WIDTH,
        "intermediate_size": 4 * size.text_width,
        "projection_size": size.width,
        "hidden_act": "gelu",
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),  # The defaults are of a larger vocabulary.
    }
    config = transformers.SiglipConfig(text_config=text, vision_config={**vit(size), "hidden_act": "gelu"})
    model = transformers.SiglipModel(config).train()

    def loss(batch: Batch) -> torch.Tensor:
        return model(torch.from_numpy(batch["text"]).long(), preprocess(batch["image"]), return_loss=True).loss

    return Learner(model, loss, size.learning_rate)


if __name__ == "__main__":
    workers.serve(worker(make, {"transformers": transformers.__version__}))
