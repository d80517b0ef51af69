"""Confident mistakes of a classifier, whose labels may be wrong: `report.json` of a run."""

from typing import Any

import numpy as np

from rmt.data.sets import ImageSet
from rmt.tasks.classify.evaluate import Predictions

CONFIDENT = 0.9
"""Probability of the predicted class from which a mistake counts as confident."""
_MOST = 100


def surest_mistakes(predictions: Predictions, images: ImageSet, most: int = _MOST) -> list[dict[str, Any]]:
    """The wrongly classified images of the highest probability, highest first, as JSON values.

    Args:
        predictions: of images of the set.
        images: the set.
        most: number of images to return.
    """
    wrong = np.flatnonzero(predictions.predicted != predictions.label)
    wrong = wrong[np.argsort(-predictions.probability[wrong], kind="stable")][:most]
    return [
        {
            "image": images.name(int(predictions.index[number])),
            "label": images.classes[predictions.label[number]],
            "predicted": images.classes[predictions.predicted[number]],
            "probability": round(float(predictions.probability[number]), 4),
        }
        for number in wrong.tolist()
    ]


def count_confident(predictions: Predictions) -> int:
    """Number of wrongly classified images with a probability of at least `CONFIDENT`."""
    return int(((predictions.predicted != predictions.label) & (predictions.probability >= CONFIDENT)).sum())
