"""A classification recipe made ready to train: data opened, network built, length and rate settled."""

from dataclasses import replace

from rmt.model import create_model
from rmt.recipes.schema import ClassifyRecipe
from rmt.tasks.classify.data import ClassifyData, class_weights
from rmt.tasks.classify.module import ClassifyModule
from rmt.tasks.classify.settle import settle_length, start_from
from rmt.tasks.classify.token_labelling import TokenLabelModule
from rmt.tasks.task import Say
from rmt.training.optimizer import peak_lr


def prepare(recipe: ClassifyRecipe, *, fresh: bool, say: Say) -> ClassifyModule:
    """See `Task.prepare`."""
    model = create_model(recipe.model, drop_path_rate=recipe.drop_path)
    data = ClassifyData.open(recipe, model.pretrained_cfg)
    model.reset_classifier(len(data.classes))
    if recipe.weights and fresh:
        start_from(model, recipe.weights, data.classes, say=say)
    recipe = replace(data.recipe, batch_size=data.batch_size)  # as it runs: never more than there are images
    recipe = settle_length(recipe, data.batches_per_epoch // recipe.accumulate)
    weights = class_weights(data.train.labels, len(data.classes)) if recipe.class_weights else None
    kind = TokenLabelModule if recipe.token_labels else ClassifyModule
    return kind(model, recipe, data, lr=peak_lr(recipe), class_weights=weights)
