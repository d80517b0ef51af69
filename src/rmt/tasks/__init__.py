"""The tasks: `train` and `resume` run a recipe, `load` brings a trained network back."""

from rmt.tasks.predictor import Prediction, Predictor, load
from rmt.tasks.run import TrainingStopped, TrainResult, resume, train

__all__ = ["Prediction", "Predictor", "TrainResult", "TrainingStopped", "load", "resume", "train"]
