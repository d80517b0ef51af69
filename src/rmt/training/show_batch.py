"""`--show-batch`: the first images that a network is trained on, as it sees them, with their labels drawn."""

import io
from pathlib import Path

from PIL import Image

from rmt.atomic import write_bytes
from rmt.data.randomness import preserve_rng_state, seed_process
from rmt.inference.drawing.sheet import draw_cell, lay_out
from rmt.training.batch import world_size
from rmt.training.module import TrainingModule

IMAGES = 16


def draw_batch(module: TrainingModule, done: int, path: Path) -> None:
    """Writes a PNG of the next `IMAGES` training images of the first process: those of whole batches, cut off there.

    Args:
        module: before training.
        done: batches that the run has trained on.
        path: of the file.
    """
    recipe = module.recipe
    epoch, start = divmod(done, module.batches_per_epoch)
    loader = module.data.train_loader(recipe, workers=0, rank=0, world_size=world_size(recipe))
    loader.load_state_dict({"epoch": epoch, "batches": start})
    cells: list[Image.Image] = []
    for number, batch in enumerate(loader, start):
        with preserve_rng_state():
            seed_process(recipe.seed, epoch, number, 0)  # as `training_step` does
            pictures = module.draw_images(batch, IMAGES - len(cells))
        names = [Path(loader.samples.name(index)).name for index in batch["index"].tolist()]
        cells += [draw_cell(*picture, name) for picture, name in zip(pictures, names, strict=False)]
        if len(cells) >= IMAGES:
            break
    loader.close()
    file = io.BytesIO()
    lay_out(cells, module.data.classes if module.draws_areas else ()).save(file, "PNG")
    write_bytes(path, file.getvalue())
