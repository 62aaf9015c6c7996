"""Learning rate, batch size and compute for LLM pretraining, with bands that mean what they say."""

__version__ = "0.1.0"
