"""The laws as PyMC: stated beliefs, the arrays a model needs, one flat `with pm.Model`."""

from scaleband.bayes.beliefs import SHARED, Beliefs, beliefs_table, default_beliefs
from scaleband.bayes.inputs import ModelInputs, cells_of, model_inputs

__all__ = [
    "SHARED",
    "Beliefs",
    "ModelInputs",
    "beliefs_table",
    "cells_of",
    "default_beliefs",
    "model_inputs",
]
