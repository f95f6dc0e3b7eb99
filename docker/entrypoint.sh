#!/bin/sh
# Starts the container's program as the user lipsync, with data and weights folders that this user may write to.
#
# Providers mount volumes that belong to root (RunPod's /workspace). The image does not know their paths, so
# LIPSYNC_DATA_DIR and LIPSYNC_WEIGHTS_DIR name the folders when the container starts. Compiled kernels are stored beside
# the weights, so that they survive a stop if the weights do.
set -eu

: "${TORCHINDUCTOR_CACHE_DIR:=$LIPSYNC_WEIGHTS_DIR/.compiled}"
: "${TRITON_CACHE_DIR:=$TORCHINDUCTOR_CACHE_DIR/triton}"
: "${PREBUILT_KERNELS_DIR:=/opt/kernels}"
export TORCHINDUCTOR_CACHE_DIR TRITON_CACHE_DIR PREBUILT_KERNELS_DIR

# The compiled kernels stay in the image. Triton finds a kernel by a small index file in its cache folder.
# The shell that runs this text replaces its variables.
# shellcheck disable=SC2016
offer_kernels='
  [ -d "$PREBUILT_KERNELS_DIR" ] || exit 0
  mkdir -p "$TRITON_CACHE_DIR" && cd "$PREBUILT_KERNELS_DIR" && cp --no-clobber --parents */__grp__*.json "$TRITON_CACHE_DIR"
'

# `docker run IMAGE serve` starts `lipsync serve`. Only a few programs are started by name, because `serve` is also a
# program of Ray.
case "${1:-}" in
  lipsync | sh | bash | python | python3 | ray | /*) ;;
  *) set -- lipsync "$@" ;;
esac

# The container was started as another user than root (`docker run --user`), so the folders cannot be given to `lipsync`.
if [ "$(id -u)" != 0 ]; then
  sh -c "$offer_kernels" || true
  exec "$@"
fi

writable() {
  setpriv --reuid 1000 --regid 1000 --clear-groups test -w "$1"
}

for folder in "$LIPSYNC_DATA_DIR" "$LIPSYNC_WEIGHTS_DIR"; do
  mkdir -p "$folder"
  writable "$folder" || chown -R 1000:1000 "$folder" || true
  if ! writable "$folder"; then
    echo "The volume at $folder does not let its owner be changed, so the server runs as root." >&2
    sh -c "$offer_kernels" || true
    exec "$@"
  fi
done
export HOME=/home/lipsync
setpriv --reuid 1000 --regid 1000 --clear-groups sh -c "$offer_kernels" || true
exec setpriv --reuid 1000 --regid 1000 --clear-groups --no-new-privs "$@"
