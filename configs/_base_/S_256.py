"""Fixed S = 256 (Sec. 3.1), tested at Q = S."""

_base_ = "paper.py"
S, Q = 256, 256

train_dataloader = dict(
    dataset=dict(
        dataset=dict(pipeline=[dict(type="vgg_mm.LoadScaledCrop", S=S, size=224), *_base_.light])
    )
)
val_dataloader = dict(
    dataset=dict(pipeline=[*_base_.load, dict(type="vgg_mm.Rescale", Q=Q), *_base_.centre])
)
test_dataloader = val_dataloader
tta_pipeline = [*_base_.load, dict(type="vgg_mm.MultiScale", scales=[Q]), *_base_.pack]
