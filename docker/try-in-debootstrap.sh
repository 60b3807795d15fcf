#!/usr/bin/env bash
# Tries the steps of the CPU image without Docker: they run in a bare Debian made with debootstrap, and the installed
# service runs there as the image runs it: as its own user, on a read-only root, with only the volumes, /tmp and /dev/shm
# to write to. It has to become healthy, to make an image, and to stop with code 0. Needs root; takes 10 to 30 minutes.
#
#   docker/try-in-debootstrap.sh           in a temporary folder, which is removed at the end
#   docker/try-in-debootstrap.sh FOLDER    in this folder, which is kept; a second run starts with the steps
#
#   BIND="/srv/wheels"                     folders of this machine to show inside, such as a local package index
#   PORT, TRITON_GRPC_PORT, TRITON_METRICS_PORT, FAMILIES    settings of the service
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${IN_NAMESPACE:-}" ]; then  # mounts and processes end with the script, whatever happens
  exec unshare --mount --pid --fork --kill-child --mount-proc env IN_NAMESPACE=1 "$0" "$@"
fi

say() { printf '%4d s  %s\n' "$SECONDS" "$*"; }
die() { printf 'try-in-debootstrap.sh: %s\n' "$*" >&2; exit 1; }

root=${1:-}
if [ -z "$root" ]; then
  root=$(mktemp -d)
  trap 'umount -R "$root" 2>/dev/null || true; rm -rf --one-file-system "$root"' EXIT
fi
export PORT=${PORT:-8000}
url=http://127.0.0.1:$PORT

# --- Debian, with the package index of this machine ---------------------------------------------------------------
if [ ! -e "$root/etc/debian_version" ]; then
  debootstrap --variant=minbase bookworm "$root" > "$root.debootstrap.log" || die "debootstrap: $root.debootstrap.log"
  rm "$root.debootstrap.log"
fi
say "Debian $(cat "$root/etc/debian_version"), $(du -sm "$root" | cut -f1) MB"
cp /etc/resolv.conf /etc/hosts "$root/etc/"
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o size=1g,mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
outside=()
for folder in ${BIND:-}; do
  outside+=(--exclude "$root$folder")
  mkdir -p "$root$folder"
  mount --bind "$folder" "$root$folder"
done
for config in /etc/pip.conf /etc/xdg/pip; do
  [ -e "$config" ] || continue
  mkdir -p "$(dirname "$root$config")"
  cp -r "$config" "$(dirname "$root$config")/"
done
pip_settings=$(env | grep '^PIP_' || true)
if [ -e "$HOME/.config/pip/pip.conf" ]; then  # for the service's user, too
  cp "$HOME/.config/pip/pip.conf" "$root/etc/pip-of-user.conf"
  pip_settings+=" PIP_CONFIG_FILE=/etc/pip-of-user.conf"
fi

# --- The code, as COPY takes it -------------------------------------------------------------------------------------
rm -rf "$root/opt/darkroom"
mkdir -p "$root/opt/darkroom"
sed -n 's/^!//p' .dockerignore | while read -r name; do
  [ ! -e "$name" ] || git ls-files -z "$name" | xargs -0 cp --parents -t "$root/opt/darkroom"
done

# --- The steps of docker/Dockerfile.cpu -----------------------------------------------------------------------------
# shellcheck disable=SC2016
environment=$(sed -n '/^ENV /,/[^\\]$/p' docker/Dockerfile.cpu | sed -e 's/^ENV//' -e 's/\\$//' -e 's|\$PATH|/usr/sbin:/usr/bin:/sbin:/bin|')
become() {  # words of the two lists are NAME=value without spaces
  # shellcheck disable=SC2086
  exec chroot "$@" env -i $environment $pip_settings PATH=/opt/venv/bin:/usr/sbin:/usr/bin:/sbin:/bin HOST=127.0.0.1 PORT="$PORT" \
    ${FAMILIES:+FAMILIES="$FAMILIES"} ${TRITON_GRPC_PORT:+TRITON_GRPC_PORT="$TRITON_GRPC_PORT"} \
    ${TRITON_METRICS_PORT:+TRITON_METRICS_PORT="$TRITON_METRICS_PORT"} "${command[@]}"
}
inside() { (become "$@"); }
step() {
  command=(sh -c "cd /opt/darkroom && exec docker/steps/$*")
  inside "$root" > "$root/var/log/step.log" 2>&1 || { tail -20 "$root/var/log/step.log"; die "the step $* failed"; }
  say "$*: $(du -smx "${outside[@]}" "$root" | cut -f1) MB"
}
step system-packages.sh
[ ! -e "${PIP_CERT:-}" ] || cp "$PIP_CERT" "$root$PIP_CERT"  # a certificate of this network, if it has its own
[ -e "$root/opt/venv/bin/darkroom" ] || step python-packages.sh cpu
step application.sh

# --- The service, as the image runs it ------------------------------------------------------------------------------
for volume in var/lib/darkroom var/log/darkroom; do mount --bind "$root/$volume" "$root/$volume"; done
mount -o remount,bind,ro "$root"
command=(sh -c 'touch /opt/darkroom/written')
! inside --userspec=10001:10001 "$root" 2>/dev/null || die "the root file system can be written"

log=$(mktemp)
command=(sh -c 'cd /opt/darkroom && exec darkroom serve --prepare')
become --userspec=10001:10001 "$root" > "$log" 2>&1 &
service=$!
healthy=(sh -c 'exec python -I /opt/darkroom/docker/steps/healthy.py')
until command=("${healthy[@]}"); inside --userspec=10001:10001 "$root" >/dev/null 2>&1; do
  kill -0 "$service" 2>/dev/null || { tail -30 "$log"; die "the service ended while it started"; }
  [ "$SECONDS" -lt "${LIMIT:-3600}" ] || { tail -30 "$log"; die "the service is not healthy after $SECONDS s"; }
  sleep 1
done
[ "$(ps -o uid= -p "$service" | tr -d ' ')" = 10001 ] || die "the service runs as $(ps -o user= -p "$service")"
say "healthy; runs as 10001, exported $(du -sm "$root/var/lib/darkroom" | cut -f1) MB"

image=$(mktemp --suffix=.png)
curl --fail-with-body --silent --show-error -H 'Accept: image/png' -F prompt='a cat on a blue background' -F seed=7 \
  "$url/generate" -o "$image" || { cat "$image"; die "no image"; }
[ "$(head -c 8 "$image" | od -An -tx1 | tr -d ' \n')" = 89504e470d0a1a0a ] || die "what came is no PNG"
say "an image of $(stat -c %s "$image") bytes: $image"

kill -TERM "$service"
code=0; wait "$service" || code=$?
[ "$code" = 0 ] || { tail -30 "$log"; die "the service stopped with code $code"; }
[ -z "$(find "$root/dev/shm" -name 'darkroom_*' -print -quit)" ] || die "shared memory is left in /dev/shm"
say "stopped with code 0; nothing is left in /dev/shm"
rm "$log"
