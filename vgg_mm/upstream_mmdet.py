"""What is worked around in mmdetection; configs that need it name this module in custom_imports."""

from mmdet.models import SSDHead

# Prediction asks a head's `loss_cls` for a flag, and mmdet 3.3's SSD has none (mmdetection#11063).
SSDHead.loss_cls = None
