"""The tasks: `train` and `resume` run a recipe, `load` brings a trained network back."""

from rmt.inference.classify import Prediction, Predictor
from rmt.training.run import TrainingStopped, TrainResult, resume, train
from rmt.training.task import load

__all__ = ["Prediction", "Predictor", "TrainResult", "TrainingStopped", "load", "resume", "train"]
