"""Weights from anywhere and for anywhere: torchvision, timm, mmpretrain, Caffe, Keras, ONNX."""
