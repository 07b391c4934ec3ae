"""README.md as the package's description, where links into the checkout would lead nowhere: their text and path stay.

All the rest is in pyproject.toml.
"""

import re
from pathlib import Path

from setuptools import setup

HERE = r"\((?!https?:)([^)]+)\)"
readme = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
readme = re.sub(rf"!\[[^]]*\]{HERE}\n+", "", readme)
readme = re.sub(rf"\[([^]]*)\]{HERE}", r"\1 (`\2`)", readme)

setup(long_description=readme, long_description_content_type="text/markdown")
