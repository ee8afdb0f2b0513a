"""A config for tests: a narrow net A of eight classes, with the paper's five pools."""

_base_ = "../configs/demo.py"

S, Q, crop = 73, 73, 64
model = dict(
    backbone=dict(width=16, pool_strides=(2, 2, 2, 2, 2)),
    head=dict(num_classes=8, in_channels=128, channels=1024, kernel_size=2),
    data_preprocessor=dict(mean=[217, 208, 200]),
)
_base_.train_dataloader.dataset.dataset.pipeline[0].update(S=S, size=crop)
_base_.val_dataloader.dataset.pipeline[1].Q = Q
_base_.val_dataloader.dataset.pipeline[2].size = crop
_base_.test_dataloader.dataset.pipeline[1].Q = Q
_base_.test_dataloader.dataset.pipeline[2].size = crop
tta_model = dict(crop_size=crop)
_base_.tta_pipeline[1].scales = [Q]
