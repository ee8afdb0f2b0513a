"""What the 12 models of Table 3 share: Sec. 3.1's recipe on ILSVRC-2012, and the runtime.

A leaf says the rest: the net's `arch`, and S and Q, which it writes into the pipelines.
"""

default_scope = "mmpretrain"

# Sec. 2: mean-only input.
model = dict(
    type="ImageClassifier",
    backbone=dict(type="vgg_mm.VGG"),
    head=dict(type="vgg_mm.VGGHead", num_classes=1000),
    data_preprocessor=dict(type="vgg_mm.VGGPreprocessor", to_rgb=True),
)

# Sec. 3.1: the pipelines' pieces, for configs whose pipelines are others.
pack = [dict(type="PackInputs", algorithm_keys=["gt_bboxes"], meta_keys=["img_path", "ori_shape"])]
load = [dict(type="vgg_mm.LoadImage")]
light = [dict(type="vgg_mm.DrawLighting")]
centre = [dict(type="vgg_mm.CenterCrop", size=224), *pack]

# 256 images a step in all: 64 on each of 4 GPUs. Other counts: --auto-scale-lr.
train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    collate_fn=dict(type="vgg_mm.collate_crops"),
    sampler=dict(type="vgg_mm.EpochSampler"),
    dataset=dict(
        type="vgg_mm.SeededDataset",
        dataset=dict(
            type="vgg_mm.ImageNet",
            data_root="data/imagenet",
            split="train",
            pipeline=[dict(type="vgg_mm.LoadScaledCrop", size=224), *light],
        ),
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    collate_fn=dict(type="default_collate"),
    sampler=dict(type="DefaultSampler", shuffle=False, round_up=False),
    dataset=dict(
        type="vgg_mm.ImageNet",
        data_root="data/imagenet",
        split="val",
        pipeline=[*load, dict(type="vgg_mm.Rescale"), *centre],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=(1,))
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()

# Sec. 3.1: SGD with momentum 0.9 and L2 weight decay, the rate divided by 10 when the validation
# accuracy stops improving, 74 epochs at most.
auto_scale_lr = dict(base_batch_size=256, enable=False)
optim_wrapper = dict(
    optimizer=dict(type="SGD", lr=1e-2, momentum=0.9, weight_decay=5e-4, fused=True)
)
# A plateau: more than `patience` validations in a row that are not better than the best by
# `threshold` points. The rate falls at the first `drops` plateaus; the next one ends the training.
param_scheduler = dict(type="vgg_mm.PlateauLR", patience=5, threshold=0.1, drops=3)
start_from_lr = 1e-3  # the rate of a training that goes on from another's weights (--start-from)
init_from_a_std = 1e-2  # of the layers that are not net A's (--init-from-a); None: Glorot's
train_cfg = dict(type="vgg_mm.TrainLoop", max_epochs=74, val_interval=1)

# Sec. 3.2.
tta_model = dict(type="vgg_mm.Evaluation", views="dense", flip=True, crop_size=224)
tta_pipeline = [*load, dict(type="vgg_mm.MultiScale"), *pack]

randomness = dict(seed=0)
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=100),
    checkpoint=dict(type="vgg_mm.CheckpointHook", minutes=10, keep=3),
)
custom_hooks = [
    dict(type="vgg_mm.ReseedHook"),
    dict(type="vgg_mm.ClassesHook"),
    dict(type="vgg_mm.CorruptImagesHook"),
    dict(type="vgg_mm.SpeedHook"),
]
log_processor = dict(mean_pattern=r".*(loss|time|images/s|waiting).*")
# Several processes. fc6's gradient is 411 MB: compress="fp16" or "bf16" halves what is sent, and
# shard_fc=True splits the FC layers over the processes.
model_wrapper_cfg = dict(type="vgg_mm.DDP", broadcast_buffers=False, gradient_as_bucket_view=True)
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
visualizer = dict(type="UniversalVisualizer", vis_backends=[dict(type="LocalVisBackend")])
