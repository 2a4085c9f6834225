# Shared by scripts/demo and scripts/test: finding out what is missing, and installing it where that is allowed.
# shellcheck shell=bash

say() { printf '%s\n' "$*"; }
have() { command -v "$1" >/dev/null 2>&1; }

# at_least HAVE WANT: whether a dotted version is not older than another.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

may_install() { [ "$(id -u)" = 0 ] && have apt-get; }

apt_lists_fresh=
# Installs Debian packages; its output is shown only when it fails.
apt_install() {
  local log status=0
  log=$(mktemp)
  say "Installing $* (apt-get)"
  {
    if [ -z "$apt_lists_fresh" ]; then apt-get update -q; fi &&
      DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
  } >"$log" 2>&1 </dev/null || status=$?
  apt_lists_fresh=yes
  [ "$status" = 0 ] || cat "$log"
  rm -f "$log"
  return "$status"
}

# check_tools NODE_MAJOR: what building and running need. Installs cmake, compilers and make where it may; prints
# what is left to do, all of it at once, and fails if there is anything.
check_tools() {
  local packages=() todo=() rust node wanted
  wanted=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml)
  if ! have cargo; then
    todo+=("Rust $wanted or newer: see https://rustup.rs")
  else
    rust=$(rustc --version | cut -d ' ' -f 2)
    at_least "$rust" "$wanted" || todo+=("Rust $wanted or newer (here: $rust): rustup update stable")
  fi
  if ! have node || ! have npm; then
    todo+=("Node.js $1 or newer, with npm: see https://nodejs.org")
  else
    node=$(node --version)
    at_least "${node#v}" "$1" || todo+=("Node.js $1 or newer (here: $node): see https://nodejs.org")
  fi
  have cmake || packages+=(cmake)
  have make || packages+=(make)
  have cc || packages+=(gcc libc6-dev)
  have c++ || packages+=(g++)
  if [ ${#packages[@]} -gt 0 ]; then
    if may_install; then
      apt_install "${packages[@]}" || todo+=("the packages ${packages[*]}: apt-get could not install them, see above")
    else
      todo+=("cmake, make, and a C and C++ compiler (missing here: ${packages[*]}):"
        "    Debian, Ubuntu   sudo apt-get install cmake make gcc g++"
        "    Fedora           sudo dnf install cmake make gcc gcc-c++"
        "    Alpine           sudo apk add cmake make gcc g++ musl-dev linux-headers")
    fi
  fi
  [ ${#todo[@]} -eq 0 ] && return 0
  say "This is needed first:"
  printf '  %s\n' "${todo[@]}"
  return 1
}

# npm_packages DIR: the packages that its lock file names, unless they are there already.
npm_packages() {
  local installed="$1/node_modules/.package-lock.json"
  if [ -e "$installed" ] && [ ! "$1/package-lock.json" -nt "$installed" ]; then return 0; fi
  say "Installing the npm packages of $1"
  (cd "$1" && npm ci --no-audit --no-fund --loglevel=error)
}
