#!/usr/bin/env bash
# Install a real n8n with the Node.js it needs into a folder, from the npm registry only; a second run does nothing.
#
#   install.sh DIR [VERSION [NODE]]
#
# Without a version it is the n8n 2.x that is tested; `install.sh DIR 1.123.81 22` is the newest 1.x. Each takes about five
# minutes and 2 GB. sqlite3 is the one module that has to be compiled (g++, make, python3).
set -euo pipefail

dir=${1:?usage: install.sh DIR [VERSION [NODE]]}
version=${2:-2.41.1}
node_version=${3:-24}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
case $(uname -m) in
  x86_64) arch=x64 ;;
  aarch64) arch=arm64 ;;
  *) echo "install.sh: no Node.js package for $(uname -m)" >&2; exit 1 ;;
esac
node_home="$dir/node/node_modules/node-linux-$arch"
if [ -x "$node_home/bin/node" ] && [ "$(cat "$dir/.version" 2>/dev/null)" = "$version" ]; then
  exit 0
fi
missing=""
for tool in npm python3 g++ make openssl tar; do command -v "$tool" >/dev/null || missing="$missing $tool"; done
if [ -n "$missing" ]; then
  echo "install.sh: missing$missing. On Debian or Ubuntu: apt-get install g++ make python3 openssl" >&2
  exit 1
fi
# No install scripts: one of n8n's dependencies would download from outside the registry.
npm="npm --no-audit --no-fund --no-update-notifier --loglevel=error --no-package-lock"

mkdir -p "$dir/node" "$dir/n8n"
echo '{"private":true}' > "$dir/node/package.json"
$npm install --prefix "$dir/node" --no-save --ignore-scripts "node-linux-$arch@$node_version"
export PATH="$node_home/bin:$PATH"
# Compile against the headers that came with Node.js instead of downloading them.
export npm_config_nodedir="$node_home"

echo "installing n8n $version, about five minutes"
# n8n 1.x takes xlsx from a web site instead of the registry.
case $version in
  1.*) echo '{"private":true,"overrides":{"xlsx":"0.18.5"}}' > "$dir/n8n/package.json" ;;
  *) echo '{"private":true}' > "$dir/n8n/package.json" ;;
esac
$npm install --prefix "$dir/n8n" --ignore-scripts --save-exact "n8n@$version"
(cd "$dir/n8n" && $npm rebuild sqlite3 --ignore-scripts=false --foreground-scripts > "$dir/sqlite3.log" 2>&1) \
  || { tail -20 "$dir/sqlite3.log" >&2; echo "install.sh: sqlite3 did not compile" >&2; exit 1; }
rm -rf "$dir/n8n/node_modules/sqlite3/build/Release/obj.target"
find "$dir/n8n/node_modules" -type f \( -name '*.map' -o -name '*.d.ts' -o -name '*.d.mts' -o -name '*.d.cts' \) -delete
echo "$version" > "$dir/.version"
