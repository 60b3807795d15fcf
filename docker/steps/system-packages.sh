#!/usr/bin/env bash
# Installs what the service needs of Debian or Ubuntu: Python with its shared library, which Triton's stubs are linked
# against, and certificates. Runs as root.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

apt-get update
apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv
version=$(python3 -c 'import sys; print(f"{sys.version_info[0]}.{sys.version_info[1]}")')
apt-get install --yes --no-install-recommends "libpython$version"
rm -rf /var/lib/apt/lists/*
