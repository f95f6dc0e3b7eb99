#!/usr/bin/env bash
# What the tests need beyond Python and Node: a browser, and a compiler
# with Python's headers (n8n's one native module, torch.compile).
# As root on Debian or Ubuntu it installs what is missing; otherwise it says what to install.
set -euo pipefail

missing=()
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || missing+=(chromium)
command -v g++ >/dev/null || missing+=(g++)
# torch.compile on the CPU includes Python's own header
[ -f "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] || missing+=(python3-dev)
# burned captions: letters of all writing systems
[ -n "$(find /usr/share/fonts -name "NotoSans-Bold*" 2>/dev/null)" ] || missing+=(fonts-noto-core)
[ -n "$(find /usr/share/fonts -name "NotoColorEmoji*" 2>/dev/null)" ] || missing+=(fonts-noto-color-emoji)
[ -n "$(find /usr/share/fonts -name "wqy-microhei*" -o -name "NotoSansCJK*" 2>/dev/null)" ] || missing+=(fonts-wqy-microhei)
command -v openssl >/dev/null || missing+=(openssl)
command -v npm >/dev/null || missing+=(nodejs npm)
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
  echo "Not installed: ${missing[*]}. The tests that need them are skipped; on Debian or Ubuntu: sudo apt-get install ${missing[*]}"
fi
