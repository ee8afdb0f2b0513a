# vgg_mm for CPUs, in a Debian of its own:
#
#   docker build -t vgg_mm .
#   docker run --rm --ipc=host -v "$PWD:/work" vgg_mm train demo    # workers share batches
#
# For GPUs: --build-arg TORCH=https://download.pytorch.org/whl/cu130 and docker run --gpus all.
# .ci/image takes the same steps in a folder, without docker.
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates python3-venv \
    libgl1 libglib2.0-0 libjpeg-turbo-progs && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/vgg_mm
ENV PATH=/opt/vgg_mm/bin:/usr/bin:/bin PIP_NO_CACHE_DIR=1
ARG TORCH=https://download.pytorch.org/whl/cpu
COPY . /src
RUN pip install -c /src/constraints.txt --index-url "$TORCH" torch torchvision
RUN pip install -c /src/constraints.txt "/src[lite,weights]" && rm -rf /src
WORKDIR /work
ENTRYPOINT ["vgg-mm"]
CMD ["--help"]
