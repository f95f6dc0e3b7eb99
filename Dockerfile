# Two images: the default one for NVIDIA GPUs with all engines, and `--target cpu`, under 1.5 GB, with the preview engine.
#
#   docker build -t lipsync .                              the GPU image
#   docker build -t lipsync:cpu --target cpu .             the CPU image
#   docker build --build-arg CLOUDFLARED=1 ...             either one with cloudflared, for LIPSYNC_TUNNEL
#   docker build --build-arg EXTRAS=speech ...             either one with more extras of pyproject.toml, joined by commas
#
#   docker run --gpus all -p 5000:5000 -v lipsync-data:/data -v lipsync-weights:/weights \
#     -e LIPSYNC_TOKENS=secret -e LIPSYNC_PROFILE=infinitetalk-int8-fast lipsync
#
# The server listens on PORT (5000). If PORT_HEALTH is set, it answers /ping on that port, for RunPod's load balancer.
#
# The stages of the CPU image come first: a Docker without BuildKit (before version 23) runs every stage above the target.
# The layers that change least come first: system, requirements (gigabytes), source (a few megabytes). An edit of the
# source changes the last layer only.

FROM debian:bookworm-slim AS base
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates python3 tini \
        fonts-noto-core fonts-noto-color-emoji fonts-wqy-microhei \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && useradd --create-home --uid 1000 lipsync \
    && install -d -o lipsync -g lipsync /data /weights
ENV PATH=/opt/lipsync/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    LIPSYNC_HOST=0.0.0.0 \
    LIPSYNC_DATA_DIR=/data \
    LIPSYNC_WEIGHTS_DIR=/weights
WORKDIR /home/lipsync
VOLUME ["/data", "/weights"]
EXPOSE 5000
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-m", "lipsync_server.http.healthcheck"]
ENTRYPOINT ["tini", "--", "entrypoint.sh"]
CMD ["serve"]

# The list of packages for pip. Its text changes only with a requirement, not with other lines of pyproject.toml.
FROM base AS requirements
COPY pyproject.toml docker/requirements.py ./
ARG EXTRAS=
RUN python3 requirements.py s3 "$EXTRAS" > /opt/cpu.txt \
    && python3 requirements.py gpu ray s3 speech "$EXTRAS" > /opt/gpu.txt

# The build stage of both images: a Python environment, and the tools beside it.
FROM base AS build
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && python3 -m venv /opt/lipsync
ARG CLOUDFLARED=0
ARG CLOUDFLARED_VERSION=2025.11.1
COPY docker/get_cloudflared.py /tmp/get_cloudflared.py
RUN install -d /opt/tools \
    && if [ "$CLOUDFLARED" = 1 ]; then python3 /tmp/get_cloudflared.py "$CLOUDFLARED_VERSION" /opt/tools/cloudflared; fi
WORKDIR /src
COPY constraints.txt ./

FROM build AS cpu-requirements
COPY --from=requirements /opt/cpu.txt ./
RUN /opt/lipsync/bin/python -m pip install --no-cache-dir -c constraints.txt -r cpu.txt \
    && /opt/lipsync/bin/python -m pip uninstall -y pip setuptools \
    && echo cpu > /opt/lipsync/lipsync-image

# The package without its requirements, as a folder that is copied over the environment of either image.
FROM build AS package
COPY pyproject.toml README.md LICENSE ./
COPY weights ./weights
COPY server ./server
RUN /opt/lipsync/bin/python -m pip install --no-cache-dir --no-deps --prefix /opt/package .

FROM base AS cpu
COPY --from=cpu-requirements /opt/lipsync /opt/lipsync
COPY --from=build /opt/tools /usr/local/bin
COPY docker/entrypoint.sh /usr/local/bin/entrypoint.sh
COPY --from=package /opt/package /opt/lipsync

# The second line fails if xformers and torch do not fit together. xformers itself only warns.
# The last one moves the libraries of NVIDIA and torch to folders of their own, which the image has as layers: a host
# unpacks one layer while it downloads the next. Of a single layer it unpacks nothing before the last byte is there.
FROM build AS gpu-requirements
COPY --from=requirements /opt/gpu.txt ./
COPY docker/split_layers.py ./
RUN /opt/lipsync/bin/python -m pip install --no-cache-dir -c constraints.txt -r gpu.txt \
    && /opt/lipsync/bin/python -c "import xformers._cpp_lib as lib; assert lib._build_metadata, 'xformers does not load'" \
    && /opt/lipsync/bin/python -m pip uninstall -y pip \
    && echo gpu > /opt/lipsync/lipsync-image \
    && python3 split_layers.py /opt/lipsync /layers

# Triton's kernels, compiled for every kind of card that providers rent out. The compiler needs no GPU, and a first job is 15
# to 40 s faster. The entry point copies the index of this folder into Triton's cache folder.
FROM gpu-requirements AS kernels
COPY --from=package /opt/package /opt/lipsync
RUN cp --recursive --symbolic-link /layers/*/. / \
    && TRITON_STORE_BINARY_ONLY=1 TRITON_CACHE_DIR=/opt/kernels \
    /opt/lipsync/bin/python -m lipsync_server.models.ahead_of_time 80 86 89 90 120

# torch's wheels bring the libraries of CUDA 12.8, so no CUDA image is needed, and the host's driver must be 525 or newer
# (570 for a card of the RTX 50 series).
# Triton compiles small C programs at a model's first run, so the image keeps a compiler and Python's headers.
FROM base AS gpu
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends gcc libc6-dev python3-dev \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
COPY --from=gpu-requirements /layers/1 /
COPY --from=gpu-requirements /layers/2 /
COPY --from=gpu-requirements /opt/lipsync /opt/lipsync
COPY --from=gpu-requirements /layers/3 /
COPY --from=gpu-requirements /layers/4 /
COPY --from=gpu-requirements /layers/5 /
COPY --from=gpu-requirements /layers/6 /
COPY --from=gpu-requirements /layers/7 /
COPY --from=gpu-requirements /layers/8 /
COPY --from=build /opt/tools /usr/local/bin
COPY docker/entrypoint.sh /usr/local/bin/entrypoint.sh
COPY --from=kernels /opt/kernels /opt/kernels
COPY --from=package /opt/package /opt/lipsync
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
