#!/usr/bin/env bash
# Sets up everything that Darkroom needs. Safe to run again: it does nothing when nothing has changed.
#
#   ./install.sh           into the virtual environment .venv (made if it is missing)
#   ./install.sh --dev     with what the tests need
#   ./install.sh --playground   with Gradio, for `darkroom playground`
#
#   USE_VENV=false         into the Python that runs now, e.g. in a container
#   PYTHON=python3.12      which Python to use (3.10 to 3.13)
#   TORCH=2.13.0           which PyTorch to install
set -euo pipefail
cd "$(dirname "$0")"

say() { printf '\033[1m%s\033[0m\n' "$*"; }
die() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }

extras=export,train
playground=
for option in "$@"; do
  case $option in
    --dev) extras=export,train,dev; playground=playground ;;
    --playground) playground=playground ;;
    -h|--help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) die "unknown option $option; see ./install.sh --help" ;;
  esac
done
TORCH=${TORCH:-2.13.0}
USE_VENV=${USE_VENV:-true}

case "$(uname -s)-$(uname -m)" in
  Linux-x86_64|Linux-aarch64) ;;
  Darwin-arm64) ;;  # without Triton: the local engine runs the models
  Darwin-*) die "PyTorch has no present builds for Macs with Intel processors." ;;
  *) die "this script is for Linux and macOS; for Windows see docs/local-engine.md." ;;
esac

# --- Python ---------------------------------------------------------------------------------------------------
python=${PYTHON:-}
for candidate in $python python3 python3.12 python3.11 python3.10 python3.13; do
  if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
    python=$candidate; break
  fi
  [ -z "${PYTHON:-}" ] || die "PYTHON=$PYTHON is not a Python from 3.10 to 3.13."
done
[ -n "$python" ] || die "no Python from 3.10 to 3.13 was found; install one (Debian/Ubuntu: apt install python3 python3-venv)."

case $USE_VENV in
  true|1|yes)
    if [ ! -x .venv/bin/python ]; then
      "$python" -c 'import venv, ensurepip' 2>/dev/null || die "this Python cannot make virtual environments (Debian/Ubuntu: apt install python3-venv)."
      say "Making the virtual environment .venv with $("$python" --version)"
      "$python" -m venv .venv
    fi
    python=$PWD/.venv/bin/python
    mark=.venv/.darkroom-installed ;;
  false|0|no) mkdir -p .darkroom; mark=.darkroom/installed ;;
  *) die "USE_VENV must be true or false; got '$USE_VENV'." ;;
esac

# --- Programs of Debian that the tests start -------------------------------------------------------------------
from_debian() {  # from_debian PACKAGE NAME TESTS OTHERWISE
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "Installing $2 for the tests of $3"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1" >/dev/null \
      || die "$2 could not be installed; the tests of $3 need it."
  else
    say "The tests of $3 need $2 ($4)."
  fi
}
if [ "$extras" = export,train,dev ]; then
  command -v chromium chromium-browser google-chrome >/dev/null \
    || from_debian chromium Chromium "the web pages" "Debian: sudo apt install chromium; Ubuntu: sudo snap install chromium"
  command -v promtool >/dev/null \
    || from_debian prometheus Prometheus "the metrics" "Debian and Ubuntu: sudo apt install prometheus"
fi

# --- Is there anything to do? ---------------------------------------------------------------------------------
gpu=false
if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then gpu=true; fi
sums() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi; }  # the second on a Mac
want="$(cat pyproject.toml client/pyproject.toml install.sh | sums | cut -c1-16) gpu=$gpu torch=$TORCH"
if [ -f "$mark" ] && grep -q "^$want .*" "$mark" && { [ "$extras" = export,train ] || grep -q "dev" "$mark"; } && grep -q "$playground" "$mark"; then
  exit 0
fi

# --- Packages -------------------------------------------------------------------------------------------------
pip() { "$python" -m pip --disable-pip-version-check "$@"; }

if "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 13))'; then
  say "Python 3.13: numpy 1.26 has no ready package for it and is compiled, which takes some minutes and a C compiler."
fi
say "Installing Darkroom for $("$python" --version), $([ $gpu = true ] && echo "with CUDA" || echo "without a GPU")"
if [ $gpu = true ] || [ "$(uname -s)" = Darwin ]; then
  pip install --progress-bar on "torch==$TORCH"
elif ! "$python" -c 'import torch' 2>/dev/null; then
  # The plain name would bring gigabytes of CUDA. A CPU build may be at hand; else PyTorch's own index has it.
  pip install --progress-bar on "torch==$TORCH+cpu" 2>/dev/null \
    || pip install --progress-bar on "torch==$TORCH+cpu" --extra-index-url https://download.pytorch.org/whl/cpu \
    || { say "PyTorch's CPU build cannot be had here; taking the default build, which is large."
         pip install --progress-bar on "torch==$TORCH"; }
fi
engine=$([ $gpu = true ] && echo gpu || echo cpu)
pip install --progress-bar on -e ./client -e ".[$engine,$extras]"
"$python" -m pip check >/dev/null || say "Some packages of this environment do not fit together; see: $python -m pip check"

# Gradio wants a Pillow older than the service's, so it has an environment of its own, which the command finds.
if [ -n "$playground" ]; then
  beside=$("$python" -c 'import sys; print(sys.prefix)')/playground
  [ -x "$beside/bin/python" ] || "$python" -m venv "$beside"
  say "Installing the playground into $beside"
  "$beside/bin/python" -m pip --disable-pip-version-check install --progress-bar on -e './client[playground]'
fi
echo "$want $extras $playground" > "$mark"

# --- What cannot be installed from here -----------------------------------------------------------------------
"$(dirname "$python")/darkroom" doctor || die "the machine is not ready yet; see above."
