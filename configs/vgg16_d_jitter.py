"""x."""

_base_ = "_base_/S_jitter.py"
model = dict(backbone=dict(arch="D"))
