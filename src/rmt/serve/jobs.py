"""What can be asked about an image: predictions, explanations, embeddings. Each job says what is done where."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from rmt.data.images import BadImage
from rmt.errors import RMTError
from rmt.inference import Predictor
from rmt.serve.answers import answer, explanation

Size = tuple[int, int]
"""(width, height) of a photograph."""


class Job(ABC):
    """Attributes:
    kind: jobs of one kind may go through the network together.
    """

    @property
    def kind(self) -> Any:
        return self

    def prepare(self, predictor: Predictor, photo: Image.Image) -> Any:
        """In a thread that decodes: returns the photograph as `run` takes it."""
        return predictor.transform()(photo)

    @abstractmethod
    def run(self, predictor: Predictor, samples: list[Any]) -> list[Any]:
        """In the thread of the network: what it finds in each."""

    @abstractmethod
    def finish(self, predictor: Predictor, size: Size, found: Any) -> dict[str, Any]:
        """The JSON values of what was found."""

    def draws(self, predictor: Predictor) -> bool:
        """Whether `finish` encodes pictures, so that it should have a thread of its own."""
        return False


@dataclass(frozen=True)
class Predict(Job):
    """The predictions of the network's task.

    Attributes:
        options: of the predictor's `run`, (name, value) pairs.
        threshold: of a detector, the lowest score of the objects in the answer.
    """

    options: tuple[tuple[str, Any], ...] = ()
    threshold: float = field(default=0.0, compare=False)

    def run(self, predictor: Predictor, samples: list[Any]) -> list[Any]:
        return predictor.run(predictor.collate(samples), **dict(self.options))

    def finish(self, predictor: Predictor, size: Size, found: Any) -> dict[str, Any]:
        return answer(predictor, size, found, self.threshold)

    def draws(self, predictor: Predictor) -> bool:
        return predictor.task == "segment"


@dataclass(frozen=True)
class Embed(Job):
    """The pooled features of a stage, counted from 1; without it those that the last layer sees."""

    stage: int | None = None

    def run(self, predictor: Predictor, samples: list[Any]) -> list[Any]:
        return list(predictor.embed_batch(predictor.collate(samples), stage=self.stage).float().cpu())

    def finish(self, predictor: Predictor, size: Size, found: Any) -> dict[str, Any]:
        return {"embedding": found.tolist()}


@dataclass(frozen=True)
class Explain(Job):
    """What each head attends to from a point, given as fractions of the width and height. Takes images one by one."""

    x: float
    y: float

    @property
    def kind(self) -> Any:
        return "explain", id(self)

    def prepare(self, predictor: Predictor, photo: Image.Image) -> Any:
        return photo

    def run(self, predictor: Predictor, samples: list[Any]) -> list[Any]:
        return [self._explain(predictor, photo) for photo in samples]

    def _explain(self, predictor: Predictor, photo: Image.Image) -> Any:
        at = (min(self.x * photo.width, photo.width - 0.5), min(self.y * photo.height, photo.height - 0.5))
        try:
            return predictor.explain(photo, at=at, evidence=False)
        except BadImage:
            raise
        except RMTError as error:  # a point outside of what the network is shown; no file is named
            raise BadImage("image", str(error).removeprefix("--")) from None

    def finish(self, predictor: Predictor, size: Size, found: Any) -> dict[str, Any]:
        return {"width": size[0], "height": size[1], **explanation(found)}

    def draws(self, predictor: Predictor) -> bool:
        return True
