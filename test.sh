#!/usr/bin/env bash
# Sets up what is missing and runs every check: lint, format, types, configs, tests, the commands of README and docs.
#
#   ./test.sh                     what must pass before a change lands (20 to 25 minutes on 2 cores, after a set-up of 5 to 10)
#   ./test.sh --heavy             the long runs: full-size pictures, ncnn, 100 disconnecting clients
#   ./test.sh tests/unit -k png   options go to pytest, the other checks are left out
set -euo pipefail
cd "$(dirname "$0")"

./install.sh --dev
case ${USE_VENV:-true} in
  true|1|yes) PATH=$PWD/.venv/bin:$PATH ;;
esac
if [ $# -gt 0 ]; then
  python -m exporters prepare
else
  python -m exporters prepare & preparing=$!  # tracing graphs keeps one core busy, and linters another one
  trap 'kill $preparing 2>/dev/null || true' EXIT
  ruff check .
  ruff format --check .
  mypy
  web/build.sh --check
  wait $preparing
  trap - EXIT
  python -m exporters config --check
  python -m darkroom.client_types --check
  python -m darkroom.env_example --check
  # Two workers, which take files (or groups of them, tests/workers.py) in this order: the long ones first.
  workers=(-n 2 --no-loadscope-reorder)
  # tests/docs runs every command of README and docs in a copy of this checkout.
  ranks=(tests/lifecycle/test_ranks.py tests/lifecycle/test_hidream_ranks.py)
  python -m pytest "${workers[@]}" tests/docs "${ranks[@]}" tests/contract tests/triton tests/parity tests/families \
    tests/unit tests/docker
  # These kill services, and measure how soon they recover, so that nothing else runs beside them.
  exec python -m pytest "${workers[@]}" tests/lifecycle "${ranks[@]/#/--ignore=}"
fi
case $1 in
  --heavy) shift; exec python -m pytest -m heavy "$@" ;;
esac
exec python -m pytest "$@"
