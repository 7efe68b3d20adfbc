"""DINOv2: a ViT-L/16 pretrained on ImageNet-1k as in the authors' code (Oquab et al. 2023, arXiv:2304.07193).

    python -m vitfm.main --config=configs/dinov2_l16_in1k.py            vitl16_short.yaml there
    python -m vitfm.main --config=configs/dinov2_l16_in1k.py:l14        vitl14.yaml, `config.data.source` ImageNet-22k
    python -m vitfm.main --config=configs/dinov2_l16_in1k.py:highres    goes on from runs/dinov2_l16_in1k, see below
    python -m vitfm.main --config=configs/dinov2_l16_in1k.py:gram       with DINOv3's Gram anchoring in the second half
    python -m vitfm.main --config=configs/dinov2_l16_in1k.py:1e5 --config.data.source=...    for 100,000 images

Data: `tfds:imagenet2012`, prepared in ArrayRecord.
Hardware: 32 A100 of 80 GB, where the authors' run took about a day.
Expected on `validation`: 81.6% top-1 by nearest neighbours, 82.9% under a linear probe; of `l14`, after 3.3 days on 96
A100, 82.0% and 84.5% (README of the authors' code). The published probe trains on augmented crops, the one here on one
centre crop an image.

The short run has one head and centres; two heads and Sinkhorn-Knopp, which the paper finds better at scale, has `l14`.
So have runs on fewer images, as configs/dinov2.py: of few steps a centre needs too many (docs/recipes/choices.md, in
runs of hundreds of steps; in these it is not measured).
Four registers (arXiv:2309.16588) are `--config.objective.model.registers=4`. Theirs drops the paths of all blocks at
one rate, 0.3, ours at rates that grow to it; KoLeo's neighbours are those of the global batch, theirs of a GPU's.

`highres` is the last phase on larger images (section 4, "Adapting the resolution", and appendix B.2, as they are quoted
in github.com/facebookresearch/dinov2/issues/211; there is no code for it): another 10,000 steps from the weights so
far, with all schedules compressed into them and all else as before, but a lower base rate. How much lower is not said:
a tenth is ours. So are 512 pixels, 32 x 32 patches of 16, for their 518, 37 x 37 of 14, and that student and teacher
both begin as the old run's teacher, encoder and head, the better of the two. Centres start anew. Global views have five
times as many patches: where they do not fit, more chips or `--config.objective.model.remat=True`. What it is worth for
this model is not published.

`gram` adds a loss of DINOv3 (Siméoni et al. 2025, arXiv:2508.10104, section 4.2), which in its code has weight 2, comes
in after 1,000,000 steps and renews its anchor every 10,000, three times at most (dinov3_vit7b16_gram_anchor.yaml in
github.com/facebookresearch/dinov3). A run of 125,000 steps has no such place: that it begins half way, with the teacher
of epoch 30, whose temperature no longer rises, and is renewed every ten epochs, three times, is ours. Theirs sees the
anchor's images at twice the size and brings the loss in over 1,000 steps; here it has the size of the others, and is
there at once. What it is worth for this model is not published: DINOv3's ViT-L/16 of ImageNet-1k, with 83.5% under a
linear probe (README there), is without it (vitl_im1k_lin834.yaml).
"""

import math

import ml_collections

from vitfm import config as config_lib

IMAGES = 1_281_167
EPOCH = 1250  # Steps: what the authors' code calls an epoch, whatever the data.
HIGHRES = 100  # The same, where a hundred of them are 10,000 steps.
VIEW = {
    "flip": 0.5,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.2,
    "hue": 0.1,
    "jitter_probability": 0.8,
    "grayscale": 0.2,
}


def scaled(images: int) -> dict:
    """What depends on the number of images: as published from a million, rules of thumb for a hundred and ten thousand.

    Reasoned, not measured, but for centering and prototypes of ten thousand images, which configs/dinov2.py has.
    """
    decade = min(max(round(math.log10(images)), 4), 6)
    batch_size = {6: 2048, 5: 512, 4: 128}[decade]
    return {
        "batch_size": batch_size,
        # Of a shorter run a centre needs too many steps.
        "centering": {6: "centre", 5: "sinkhorn", 4: "sinkhorn"}[decade],
        # Sinkhorn-Knopp shares all prototypes out among a batch: many more than its 2 B class tokens or its masked
        # patches, and most of them are no one's.
        "prototypes": {6: 65536, 5: 8192, 4: 512}[decade],
        # The teacher looks back on a similar share of any run: 1 / (1 - 0.992) of 125,000 steps, of shorter ones fewer.
        "momentum": {6: 0.992, 5: 0.99, 4: 0.98}[decade],
        "learning_rate": 4e-3 * math.sqrt(batch_size / 1024),
        # 125,000 steps, 98,000, 78,000: fewer images give out earlier.
        "epochs": {6: 200, 5: 500, 4: 1000}[decade],
    }


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `l14` for the long one, `highres` for its last phase, `gram` anchors, or the number of images."""
    given = config_lib.argument(arg, "l14", "highres", "gram", images=IMAGES)
    long, highres = given == "l14", given == "highres"
    images = given if isinstance(given, int) else IMAGES
    size = scaled(images)
    epochs, warmup = (500, 80) if long else (100, 10)
    epoch = HIGHRES if highres else EPOCH
    if images != IMAGES:
        epoch = round(images * size["epochs"] / size["batch_size"] / epochs)
    centering = "sinkhorn" if long else size["centering"]
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = f"{epochs * epoch} steps"
    config.batch_size = 3072 if long else size["batch_size"]
    config.log_every = "100 steps"
    config.checkpoint = {"every": f"{2 * epoch} steps", "keep": 2, "keep_every": f"{10 * epoch} steps"}

    config.objective = {
        "name": "dinov2",
        "model": {
            "name": "vit",
            "size": "L",
            "patch_size": 14 if long else 16,
            "position_resize": "bicubic",
            "layer_scale": 1e-5,
            "drop_path_rate": 0.4 if long else 0.3,
            "pool": "cls",
        },
        "teacher_temperature": {"name": "linear", "start": 0.04, "end": 0.07, "length": f"{30 * epoch} steps"},
        "momentum": {"name": "cosine", "start": 0.994 if long else size["momentum"], "end": 1.0},
        "prototypes": 131072 if long else size["prototypes"],
        "bottleneck_dim": 384 if long else 256,
        "shared_head": centering == "centre",
        "centering": centering,
    }
    if given == "gram":
        steps = {"gram_from": 30 * epoch, "gram_start": 50 * epoch, "gram_every": 10 * epoch}
        config.objective.update({"gram_weight": 2.0, "gram_updates": 3, **steps})
    if long:
        config.objective.patch_bottleneck_dim = 256
        # Two thirds of 4 D in whole eights, gated.
        config.objective.model.update({"mlp_dim": 2736, "gated_mlp": True, "activation": "silu"})
    config.data = {
        "source": "tfds:imagenet2012:train",
        "image_size": 512 if highres else 224,
        "crop": {"flip": False},
        "augment": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
        "views": {
            "global": {
                "count": 2,
                "crop": {"scale": (0.32, 1.0)},
                "augment": (
                    {**VIEW, "blur": {"probability": 1.0}},
                    {**VIEW, "blur": {"probability": 0.1}, "solarize": {"probability": 0.2}},
                ),
            },
            "local": {
                "count": 8,
                "size": 98 if long else 96,
                "crop": {"scale": (0.05, 0.32)},
                "augment": {**VIEW, "blur": {"probability": 0.5}},
            },
        },
        "threads": 32,
    }
    peak = 2e-4 * math.sqrt(config.batch_size / 1024) if long else size["learning_rate"] * (0.1 if highres else 1.0)
    config.optim = {
        "name": "adamw",
        "learning_rate": peak,
        "schedule": {"name": "cosine", "warmup": f"{warmup * epoch} steps", "end": 1e-6 / peak},
        "weight_decay": {"name": "cosine", "start": 0.04, "end": 0.2 if long else 0.4},
        # As in the authors' code: all that has axes decays, tokens and prototypes too; layer scales do not.
        "decay_rules": ((r"(kernel|position|token|registers)$", True), (".*", False)),
        "layer_decay": 1.0 if long else 0.9,
        "multipliers": (("^encoder/stem/", 0.2),),
        "clip_norm": None,
        "clip_module_norm": 3.0,
        "freeze": (("head/prototypes", f"{epoch} steps"),),
    }
    config.evals = {
        "knn": {**_probe("knn"), "every": f"{10 * epoch} steps"},
        "linear_probe": _probe("linear_probe"),
        "attention": {
            "name": "attention",
            "source": "tfds:imagenet2012:validation",
            "prefix": "validation",
            "every": f"{10 * epoch} steps",
        },
    }
    if highres:
        old = "extra/teacher"
        config.init = {"run": "runs/dinov2_l16_in1k", "take": {part: f"{old}/{part}" for part in ("encoder", "head")}}
    return config


def _probe(name: str) -> dict:
    return {
        "name": name,
        "train": "tfds:imagenet2012:train",
        "test": "tfds:imagenet2012:validation",
        "label": "label",
        "prefix": "validation",
    }
