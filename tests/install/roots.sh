# shellcheck shell=bash
# Bare systems to install in, for tests/install/run.sh: a root of a Debian suite is made once by debootstrap, as root, and
# kept under $KINEOGRAPH_ROOTS; every test gets a copy of its own, which goes when it ends. Packages that apt downloads are
# kept beside, and with KINEOGRAPH_INSTALL_CCACHE=FOLDER ccache keeps there what compilers make; ccache and ninja are then
# packages that a newcomer has not.

roots=${KINEOGRAPH_ROOTS:-/var/tmp/kineograph-roots}

# This machine's settings of its network and its registries, for a root's apt and pip.
lend_network() {
  local file
  mkdir -p "$1/etc/apt/apt.conf.d" "$1/etc/ssl/certs"
  for file in /etc/resolv.conf /etc/hosts /etc/pip.conf /etc/ssl/certs/ca-certificates.crt /etc/apt/apt.conf.d/[0-9][0-9]*; do
    case "$(basename "$file")" in docker-*|70debconf|01autoremove*|20packagekit|50*) continue ;; esac
    if [ -f "$file" ]; then cp "$file" "$1$file"; fi
  done
}

# base SUITE: the kept root of a suite, with nothing that debootstrap's minbase has not.
base() {
  if [ ! -e "$roots/$1/.whole" ]; then
    mkdir -p "$roots"
    rm -rf "${roots:?}/$1"
    # What is made anew at will need not outlive a power cut: dpkg waits for the disk at every file otherwise.
    mkdir -p "$roots/$1/etc/dpkg/dpkg.cfg.d"
    echo force-unsafe-io >"$roots/$1/etc/dpkg/dpkg.cfg.d/unsafe-io"
    debootstrap --variant=minbase "$1" "$roots/$1" ${KINEOGRAPH_MIRROR:+"$KINEOGRAPH_MIRROR"} >"$roots/$1.log" 2>&1 || { tail "$roots/$1.log" >&2; return 1; }
    lend_network "$roots/$1"
    chroot "$roots/$1" apt-get update -qq
    touch "$roots/$1/.whole"
  fi
}

# fresh SUITE: sets $root to a copy of that root, with the tree's files in /source.
fresh() {
  base "$1" || return 1
  root=$(mktemp -d "$roots/copy.XXXXXX")
  cp -a --reflink=auto "$roots/$1/." "$root"
  mkdir "$root/source"
  mount --bind /proc "$root/proc"
  mkdir -p "$root/dev/pts"
  mount -t devpts -o ptmxmode=666 devpts "$root/dev/pts"
  keep "$roots/packages.$1" /var/cache/apt/archives
  if [ -n "${KINEOGRAPH_INSTALL_CCACHE:-}" ]; then
    keep "$KINEOGRAPH_INSTALL_CCACHE" /ccache
    install_in_root ccache ninja-build
  fi
  git ls-files -z --cached --others --exclude-standard | xargs -0 sh -c 'for file; do if [ -f "$file" ]; then printf "%s\0" "$file"; fi; done' - |
    tar --null -T - -c | tar -x -C "$root/source"
}

# keep KEPT FOLDER: the copy's folder is a kept one of this machine, for the next copies too.
keep() {
  mkdir -p "$1" "$root$2"
  mount --bind "$1" "$root$2"
}

# gone: takes the copy away; as a trap, too.
gone() {
  local folder
  if [ -n "${root:-}" ] && [ -d "$root" ]; then
    for folder in proc dev/pts var/cache/apt/archives ccache; do
      if mountpoint -q "$root/$folder"; then umount --lazy "$root/$folder"; fi  # what still runs holds it
    done
    rm -rf --one-file-system "$root"
  fi
  root=
}

# inside COMMANDS: a shell in the copy, in its /source, with an environment of its own.
inside() {
  local variables=() name
  for name in $(compgen -e); do
    case "$name" in PIP_FIND_LINKS) ;; PIP_*|CCACHE_*|*_proxy|*_PROXY) variables+=("$name=${!name}") ;; esac
  done
  if mountpoint -q "$root/ccache"; then
    # CMake's own choice of a compiler by name, since to ccache another name is another compiler.
    variables+=(CCACHE_DIR=/ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache CXX=c++)
  fi
  chroot "$root" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
    DEBIAN_FRONTEND=noninteractive "${variables[@]}" bash -euo pipefail -c "cd /source; $1"
}

# install PACKAGES...: by apt, in the copy. The package ca-certificates writes its own list over the lent one.
install_in_root() {
  inside "apt-get install -y -qq --no-install-recommends $* >/dev/null"
  lend_network "$root"
}
