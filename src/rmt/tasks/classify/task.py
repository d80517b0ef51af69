"""Image classification, as the trainer and the commands see it."""

from pathlib import Path

from rmt.inference.classify import Predictor, load
from rmt.inference.predictions import Answer
from rmt.tasks.classify.build import build, resolve
from rmt.tasks.classify.finish import finish, summary
from rmt.tasks.classify.scoring import describe, evaluate_checkpoint
from rmt.training.task import Task


def answer(network: Predictor, image: Path, *, top_k: int = 5) -> Answer:
    """The `top_k` likeliest classes."""
    (ranking,) = network.predict(image, top_k=top_k)
    text = ", ".join(f"{p.label} {100 * p.probability:.1f} %" for p in ranking)
    values = [{"label": p.label, "probability": p.probability, "index": p.index} for p in ranking]
    return Answer(text, {"predictions": values})


TASK = Task(
    resolve=resolve,
    build=build,
    finish=finish,
    summary=summary,
    load=load,
    evaluate=evaluate_checkpoint,
    describe=describe,
    bulky=("confusion",),
    answer=answer,
)
