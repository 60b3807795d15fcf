#!/usr/bin/env bash
# Prepares the code of an image: compiled, owned by root and not writable by the service; and the account of the service
# with its folders. Runs as root in the folder of the code.
set -euo pipefail

VENV=${VENV:-/opt/venv}
STATE_DIR=${STATE_DIR:-/var/lib/darkroom}
LOG_DIR=${LOG_DIR:-/var/log/darkroom}

# The root file system is read-only later. Without compiled code every start would compile all of it again.
"$VENV/bin/python" -m compileall -q backends client darkroom exporters proxy supervisor training

getent group darkroom > /dev/null || groupadd --system --gid 10001 darkroom
getent passwd darkroom > /dev/null || useradd --system --uid 10001 --gid darkroom \
  --home-dir "$STATE_DIR" --no-create-home --shell /usr/sbin/nologin darkroom
# A new volume gets the owner of the folder that it is mounted on, so all of them have to be there.
install -d -o darkroom -g darkroom "$STATE_DIR" "$STATE_DIR/data" "$STATE_DIR/model_repository" "$LOG_DIR"
