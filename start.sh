#!/usr/bin/env bash
# Starts Darkroom: sets up what is missing, exports what is not exported yet, then serves until Ctrl-C.
#
#   ./start.sh                    everything on the defaults: http://127.0.0.1:8000
#   ./start.sh --port 9000        options go to `darkroom serve`; see ./start.sh --help
#   USE_VENV=false ./start.sh     use the Python that runs now (containers)
set -euo pipefail
cd "$(dirname "$0")"

./install.sh
case ${USE_VENV:-true} in
  true|1|yes) PATH=$PWD/.venv/bin:$PATH ;;
esac
case "${1:-}" in
  -h|--help) exec darkroom serve --help ;;
esac
python -m exporters prepare
exec darkroom serve "$@"
