"""Describe a config's net layer by layer, or, without a config, the paper's design section.

    python tools/describe.py
    python tools/describe.py configs/vgg16_d_256.py
    python tools/describe.py configs/vgg16_d_256.py --size 384 512
"""

import argparse
from pathlib import Path

from mmengine import Config

from vgg_mm.errors import UserError, run, suggest
from vgg_mm.models.describe import build, crop_side, describe, layer_table, lesson
