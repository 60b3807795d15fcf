#!/usr/bin/env bash
# Makes the virtual environment of an image with everything that the service imports. Runs as root in the folder that
# will hold the code. Only the two pyproject.toml are needed, so that a change of code leaves this layer as it is.
#
#   python-packages.sh cpu    ONNX Runtime and PyTorch for CPUs
#   python-packages.sh gpu    the same with CUDA
#
#   VENV=/opt/venv            where the environment is made
#   TORCH=2.13.0              which PyTorch to install; as in install.sh
set -euo pipefail

engine=${1:?cpu or gpu}
VENV=${VENV:-/opt/venv}
TORCH=${TORCH:-2.13.0}

python3 -m venv "$VENV"
pip() { "$VENV/bin/python" -m pip --disable-pip-version-check --no-cache-dir "$@"; }

case $engine in
  gpu) pip install "torch==$TORCH" ;;
  # The plain name would bring gigabytes of CUDA. A CPU build may be at hand; else PyTorch's own index has it.
  cpu) pip install "torch==$TORCH+cpu" 2>/dev/null \
         || pip install "torch==$TORCH+cpu" --extra-index-url https://download.pytorch.org/whl/cpu ;;
  *) echo "python-packages.sh: the engine must be cpu or gpu; got '$engine'." >&2; exit 1 ;;
esac

touch README.md  # which pyproject.toml names
# "compat" writes the path of this folder into the environment. The default would list the packages that are there now,
# and the code comes later.
pip install --config-settings editable_mode=compat -e ./client -e ".[$engine,export,train,traces]"
"$VENV/bin/python" -m pip check
