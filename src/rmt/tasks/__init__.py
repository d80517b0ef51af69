"""The tasks: `train` and `resume` run a recipe, `load` brings a trained network back."""

from rmt.tasks.classify.predictor import Prediction, Predictor
from rmt.tasks.run import TrainingStopped, TrainResult, resume, train
from rmt.tasks.task import load

__all__ = ["Prediction", "Predictor", "TrainResult", "TrainingStopped", "load", "resume", "train"]
