"""The front door: a net that carries its own input, in three lines of Python.

net = vgg_mm.load("D", weights="torchvision://vgg16")
net.predict("cat.jpg")
"""

from .evaluation import evaluate
from .loading import load
from .net import Guess, Net

__all__ = ["Guess", "Net", "evaluate", "load"]
