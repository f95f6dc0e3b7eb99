# Two images: the default one for NVIDIA GPUs with all engines, and `--target cpu`, under 1.5 GB, with the preview engine.
#
#   docker build -t YOU/lipsync .                          the GPU image
#   docker build -t YOU/lipsync:cpu --target cpu .         the CPU image
#   docker build --build-arg CLOUDFLARED=1 ...             either one with cloudflared, for LIPSYNC_TUNNEL
#
#   docker run --gpus all -p 5000:5000 -v lipsync-data:/data -v lipsync-weights:/weights \
#     -e LIPSYNC_TOKENS=secret -e LIPSYNC_PROFILE=infinitetalk-int8 YOU/lipsync
#
# It listens on PORT (5000), and on PORT_HEALTH where that is set, with /ping for RunPod's load balancer.

FROM debian:bookworm-slim AS cpu-base
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates python3 tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 lipsync \
    && install -d -o lipsync -g lipsync /data /weights

FROM cpu-base AS cpu-build
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/lipsync
ARG CLOUDFLARED=0
ARG CLOUDFLARED_VERSION=2025.11.1
COPY docker/get_cloudflared.py /tmp/get_cloudflared.py
RUN install -d /opt/tools \
    && if [ "$CLOUDFLARED" = 1 ]; then python3 /tmp/get_cloudflared.py "$CLOUDFLARED_VERSION" /opt/tools/cloudflared; fi
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY weights ./weights
COPY server ./server
RUN /opt/lipsync/bin/python -m pip install --no-cache-dir -c constraints.txt ".[s3]" \
    && /opt/lipsync/bin/python -m pip uninstall -y pip setuptools

FROM cpu-base AS cpu
COPY --from=cpu-build /opt/tools /usr/local/bin
COPY --from=cpu-build /opt/lipsync /opt/lipsync
ENV PATH=/opt/lipsync/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    LIPSYNC_HOST=0.0.0.0 \
    LIPSYNC_DATA_DIR=/data \
    LIPSYNC_WEIGHTS_DIR=/weights
USER 1000:1000
WORKDIR /home/lipsync
VOLUME ["/data", "/weights"]
EXPOSE 5000
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-m", "lipsync_server.http.healthcheck"]
ENTRYPOINT ["tini", "--", "lipsync"]
CMD ["serve"]

# Triton compiles small C programs when a model runs first, so the GPU image keeps a compiler and Python's headers.
# CUDA 13.0 as in the torch that constraints.txt names: the host's driver must be 580 or newer.
FROM nvidia/cuda:13.0.1-runtime-ubuntu24.04 AS gpu-base
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates gcc libc6-dev python3 python3-dev tini \
    && rm -rf /var/lib/apt/lists/* \
    && { userdel --remove ubuntu || true; } \
    && useradd --create-home --uid 1000 lipsync \
    && install -d -o lipsync -g lipsync /data /weights

FROM gpu-base AS gpu-build
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/lipsync
ARG CLOUDFLARED=0
ARG CLOUDFLARED_VERSION=2025.11.1
COPY docker/get_cloudflared.py /tmp/get_cloudflared.py
RUN install -d /opt/tools \
    && if [ "$CLOUDFLARED" = 1 ]; then python3 /tmp/get_cloudflared.py "$CLOUDFLARED_VERSION" /opt/tools/cloudflared; fi
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY weights ./weights
COPY server ./server
# The second line fails where xformers and torch do not fit together: xformers itself only warns.
RUN /opt/lipsync/bin/python -m pip install --no-cache-dir -c constraints.txt ".[gpu,s3]" \
    && /opt/lipsync/bin/python -c "import xformers._cpp_lib as lib; assert lib._build_metadata, 'xformers does not load'" \
    && /opt/lipsync/bin/python -m pip uninstall -y pip

FROM gpu-base AS gpu
COPY --from=gpu-build /opt/tools /usr/local/bin
COPY --from=gpu-build /opt/lipsync /opt/lipsync
# What torch.compile made is kept with the weights: the next start of the machine has it at once.
ENV PATH=/opt/lipsync/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    LIPSYNC_HOST=0.0.0.0 \
    LIPSYNC_DATA_DIR=/data \
    LIPSYNC_WEIGHTS_DIR=/weights \
    TORCHINDUCTOR_CACHE_DIR=/weights/.compiled \
    TRITON_CACHE_DIR=/weights/.compiled/triton \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
USER 1000:1000
WORKDIR /home/lipsync
VOLUME ["/data", "/weights"]
EXPOSE 5000
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-m", "lipsync_server.http.healthcheck"]
ENTRYPOINT ["tini", "--", "lipsync"]
CMD ["serve"]
