#!/bin/sh
# Starts the container's program as the user lipsync, with data and weights folders that this user may write to.
#
# Providers mount volumes that belong to root or to another user (RunPod's /workspace), and a server that ran as root
# before leaves files of root in them. The image does not know their paths, so LIPSYNC_DATA_DIR and LIPSYNC_WEIGHTS_DIR
# name the folders when the container starts. Compiled kernels are stored beside
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

as_lipsync() {
  setpriv --reuid 1000 --regid 1000 --clear-groups "$@"
}

as_root() {
  echo "$1, so the server runs as root." >&2
  shift
  sh -c "$offer_kernels" || true
  exec "$@"
}

# The user may pass through the folders above a folder, which is not so below a mount with mode 700.
make_reachable() {
  above=$(dirname "$1")
  while as_lipsync test ! -e "$1" && [ "$above" != / ]; do
    as_lipsync test -x "$above" || chmod o+x "$above" || return 0
    above=$(dirname "$above")
  done
}

as_lipsync true 2>/dev/null || as_root "This container may not change its user" "$@"

for folder in "$LIPSYNC_DATA_DIR" "$LIPSYNC_WEIGHTS_DIR"; do
  mkdir -p "$folder"
  # A volume that is mounted read-only, as weights may be, needs no owner.
  if [ ! -w "$folder" ] && as_lipsync test -r "$folder"; then
    continue
  fi
  make_reachable "$folder"
  find "$folder" ! -user 1000 -exec chown --no-dereference 1000:1000 {} + 2>/dev/null || true
  if ! as_lipsync test -w "$folder" || [ -n "$(find "$folder" ! -user 1000 ! -type l -print -quit)" ]; then
    as_root "The user lipsync cannot own $folder, because the volume does not let its owner be changed" "$@"
  fi
done
export HOME=/home/lipsync
as_lipsync sh -c "$offer_kernels" || true
exec setpriv --reuid 1000 --regid 1000 --clear-groups --no-new-privs "$@"
