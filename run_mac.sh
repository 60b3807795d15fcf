#!/usr/bin/env bash
# Starts Darkroom on a Mac with Apple silicon, on the local engine (docs/local-engine.md). Options as for ./start.sh.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

[ "$(uname -s)-$(uname -m)" = Darwin-arm64 ] || { echo "run_mac.sh: this is no Mac with Apple silicon; run ./start.sh." >&2; exit 1; }
if [ -z "${PYTHON:-}" ]; then
  # numpy 1.26 has ready packages for these two; macOS itself has Python 3.9, which is too old.
  for candidate in python3.12 python3.11; do
    if command -v "$candidate" >/dev/null; then export PYTHON=$candidate; break; fi
  done
  [ -n "${PYTHON:-}" ] || { echo "run_mac.sh: Python 3.12 or 3.11 is needed; run: brew install python@3.12" >&2; exit 1; }
fi
export PYTORCH_ENABLE_MPS_FALLBACK=${PYTORCH_ENABLE_MPS_FALLBACK:-1}  # what MPS lacks runs on the CPU
exec "$here/start.sh" --engine local "$@"
