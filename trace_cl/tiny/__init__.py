"""The model that ships with the project: a Llama of two million parameters, and the script that makes it."""

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
