#!/usr/bin/env bash
# Install both versions of n8n that are tested, side by side, into .cache/n8n and .cache/n8n-1 of the repository. A version
# whose folder is named by LIPSYNC_N8N_DIR or LIPSYNC_N8N_1_DIR is not installed.
set -euo pipefail
cd "$(dirname "$0")"
cache=../../../.cache

installs=()
[ -n "${LIPSYNC_N8N_DIR:-}" ] || { bash install.sh "$cache/n8n" & installs+=($!); }
[ -n "${LIPSYNC_N8N_1_DIR:-}" ] || { bash install.sh "$cache/n8n-1" 1.123.81 22 & installs+=($!); }
code=0
for install in "${installs[@]}"; do wait "$install" || code=1; done
exit "$code"
