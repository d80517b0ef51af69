"""Image classification, as the trainer and the commands see it."""

from pathlib import Path

from rmt.recipes.schema import ClassifyRecipe
from rmt.tasks.answers import Answer
from rmt.tasks.classify.finish import finish, summary
from rmt.tasks.classify.module import ClassifyTask
from rmt.tasks.classify.predictor import Predictor, load
from rmt.tasks.classify.prepare import prepare
from rmt.tasks.classify.scoring import describe, evaluate_checkpoint
from rmt.tasks.classify.settle import settle
from rmt.tasks.task import Task


class Classification(Task[ClassifyRecipe, ClassifyTask]):
    """Names what is on an image."""

    bulky = ("confusion",)
    settle = staticmethod(settle)
    prepare = staticmethod(prepare)
    finish = staticmethod(finish)
    summary = staticmethod(summary)
    load = staticmethod(load)
    evaluate = staticmethod(evaluate_checkpoint)
    describe = staticmethod(describe)

    def answer(self, network: Predictor, image: Path, *, top_k: int = 5) -> Answer:
        (ranking,) = network.predict(image, top_k=top_k)
        text = ", ".join(f"{p.label} {100 * p.probability:.1f} %" for p in ranking)
        values = [{"label": p.label, "probability": p.probability, "index": p.index} for p in ranking]
        return Answer(text, {"predictions": values})


TASK = Classification()
