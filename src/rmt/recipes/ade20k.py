"""The recipes of the paper's segmenters on ADE20K (Sec. 4.3, Tables 5 and 6).

Published figures are the mIoU on the 2,000 validation images.
"""

from dataclasses import replace

from rmt.recipes.published import PUBLISHED
from rmt.recipes.recipe import named
from rmt.recipes.segment import SegmentRecipe

#: AdamW 1e-4, weight decay 1e-4 also for norms, 80,000 iterations, power 0.9 to 1e-6.
_SEMANTIC_FPN = SegmentRecipe(
    name="",
    zero_is_ignored=True,
    head="semantic_fpn",
    batch_size=16,
    effective_batch=16,
    lr_base_batch=16,
    iterations=80_000,
    validate_every=8_000,
    lr=1e-4,
    min_lr=1e-6,
    poly_power=0.9,
    weight_decay=1e-4,
    decay_norms=True,
    drop_path="auto",
    devices="auto",
    sync_batchnorm=True,
    workers=8,
)
#: AdamW 6e-5, weight decay 0.01 except for norms, 1,500 of 160,000 iterations of warm-up, power 1 to 0.
_UPERNET = replace(
    _SEMANTIC_FPN,
    head="upernet",
    aux_weight=0.4,
    iterations=160_000,
    validate_every=16_000,
    lr=6e-5,
    min_lr=0.0,
    poly_power=1.0,
    warmup_iterations=1_500,
    warmup_start=1e-6,
    weight_decay=0.01,
    decay_norms=False,
)
_TITLES = {"semantic_fpn": "Semantic FPN", "upernet": "UPerNet"}


def _row(recipe: SegmentRecipe, size: str):
    name = f"ade20k-{recipe.head.replace('_', '-')}-{size}"
    network = f"RMT-{'-'.join(part[0].upper() if part != 'swin' else 'Swin' for part in size.split('-'))}"
    published = PUBLISHED[name]
    cost = "Cost: GPU-hours not measured."
    if published.parameters:
        cost += f" The paper counts {published.describe_cost()}."
    accuracy = f"Accuracy: published {published.describe_scores()} ({published.table}); none measured here."
    description = f"""{_TITLES[recipe.head]} on {network}, ADE20K: {recipe.iterations:,} iterations of 16 crops of 512².

{cost}
{accuracy}
Command: rmt train {name} --data ADEChallengeData2016 --weights {network}.pth
"""
    return name, named(replace(recipe, name=name, model=f"rmt_{size.replace('-', '_')}"), description)


#: The rows of Table 5, on ADE20K: name -> function that returns the recipe.
ADE20K = dict(
    [_row(_SEMANTIC_FPN, size) for size in ("tiny", "small", "base", "large", "swin-tiny", "swin-small")]
    + [_row(_UPERNET, size) for size in ("small", "base", "large")]
)
