#!/usr/bin/env bash
# Starts Darkroom: sets up what is missing, exports what is not exported yet, then serves until Ctrl-C.
#
#   ./start.sh                    everything on the defaults: http://127.0.0.1:8000
#   ./start.sh --port 9000        options go to `darkroom serve`; see ./start.sh --help
#   ./start.sh -m /data/HiDream-I1-Full -e /data/Llama-3.1-8B-Instruct -d 0,1,2,3
#                                 HiDream-I1 instead of the demo, divided over four GPUs
#   USE_VENV=false ./start.sh     use the Python that runs now (containers)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)  # not the working directory, which folders in the options may be relative to

"$here/install.sh"
case ${USE_VENV:-true} in
  true|1|yes) PATH=$here/.venv/bin:$PATH ;;
esac
exec darkroom serve --prepare "$@"
