#!/bin/sh
# Installs the agent of n-kudo, nkudo-edge, from a release: a deb or an rpm where the host has dpkg or rpm, else the tarball.
# Nothing of the release is run or unpacked before its manifest was found to be signed by a key that you trust, to be in
# date and no older than what is installed, and the file to be the one that the manifest names.
#
#   install.sh [--from DIRECTORY|URL] [--key FILE] [--check-only]
#
# --from: where manifest.json lies; default: beside this script. --key: the public key of the releases, PEM; without it
# the keys that are written into this script, if any. Needs openssl, sha256sum, sed, sort, and curl for a URL.
set -eu
umask 022

fail() {
  echo "install.sh: $1" >&2
  exit 1
}

# Keys of the releases, PEM; put here when the release was made.
keys='@RELEASE_KEYS@'

from=$(dirname "$0") key_file='' check_only=''
while [ $# -gt 0 ]; do
  case $1 in
    --from) from=${2:?--from needs a directory or a URL} && shift 2 ;;
    --key) key_file=${2:?--key needs a file} && shift 2 ;;
    --check-only) check_only=1 && shift ;;
    *) fail "unknown argument $1; the head of this script says what it takes" ;;
  esac
done
for program in openssl sha256sum sed sort base64; do
  command -v "$program" >/dev/null || fail "$program is missing"
done
[ -z "$key_file" ] || keys=$(cat "$key_file")
case $keys in
  *'BEGIN PUBLIC KEY'*) ;;
  *) fail 'no key to check with: name the public key of the releases with --key' ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fetch() { # name
  case $from in
    http://* | https://*) curl --fail --silent --show-error --location --output "$work/$1" "${from%/}/$1" || fail "$1 can not be fetched from $from" ;;
    *) cp "$from/$1" "$work/$1" 2>/dev/null || fail "there is no $1 in $from" ;;
  esac
}

# 1. Who signed the manifest.
fetch manifest.json
fetch manifest.json.sigstore.json
sed -n 's/.*"signature":"\([A-Za-z0-9+/=]*\)".*/\1/p' "$work/manifest.json.sigstore.json" | base64 -d >"$work/signature" 2>/dev/null || :
printf '%s\n' "$keys" | awk -v work="$work" '/BEGIN PUBLIC KEY/ { n++ } n { print > (work "/key." n) } /END PUBLIC KEY/ { close(work "/key." n) }'
trusted=
for key in "$work"/key.*; do
  if openssl dgst -sha256 -verify "$key" -signature "$work/signature" "$work/manifest.json" >/dev/null 2>&1; then trusted=1; fi
done
[ -n "$trusted" ] || fail 'the manifest is not what a key that you trust has signed'

# 2. What it says. It is believed from here on.
value_of() { sed -n "s/^  \"$1\": \"\([^\"]*\)\",\{0,1\}\$/\1/p" "$work/manifest.json"; }
[ "$(value_of kind)" = nkudo.dev/release-manifest/v1 ] || fail 'the manifest is of a kind that this script does not know'
version=$(value_of version)
expires=$(value_of expiresAt)
# Times of this form are in the order of their letters.
[ "$(printf '%s\n' "$(date -u +%Y-%m-%dT%H:%M:%S)" "$expires" | LC_ALL=C sort | head -n 1)" != "$expires" ] || fail "the manifest of $version expired on $expires"
installed=
package=${NKUDO_EDGE_LIB:-/usr/lib/nkudo-edge}
if [ -r "$package/version" ]; then installed=$(cat "$package/version"); fi
if [ -n "$installed" ] && [ "$installed" != "$version" ]; then
  # What stands behind a hyphen comes before a release, as ~ does for sort.
  newest=$(printf '%s\n%s\n' "$version" "$installed" | sed 's/-/~/' | sort -V | tail -n 1 | sed 's/~/-/')
  if [ "$newest" = "$installed" ] && ! tr -d '\n' <"$work/manifest.json" | sed -n 's/.*"mayReplace": \[\([^]]*\)\].*/\1/p' | grep -qF "\"$installed\""; then
    fail "$version is older than $installed, which is installed; to go back to the version before: nkudo-edge update --rollback"
  fi
fi

# 3. Which file, and whether it is that file to the last byte.
machine=$(uname -m)
if command -v dpkg >/dev/null; then
  format=deb
elif command -v rpm >/dev/null; then
  format=rpm
else
  format=tar.gz
fi
entry=$(tr -d '\n' <"$work/manifest.json" | sed 's/}/}\n/g' | grep "\"name\": \"nkudo-edge-$format\"" | grep "\"architecture\": \"$machine\"" || :)
field_of() { printf '%s' "$entry" | sed -n "s/.*\"$1\": \"\{0,1\}\([A-Za-z0-9._+-]*\)\"\{0,1\}[,[:space:]}].*/\1/p"; }
[ -n "$entry" ] || fail "release $version has no $format for $machine"
file=$(field_of fileName) digest=$(field_of sha256)
case $file in
  '' | */* | .*) fail 'the manifest names no file that could be one' ;;
esac
[ "${#digest}" -eq 64 ] || fail 'the manifest has no digest of the file'
fetch "$file"
printf '%s  %s\n' "$digest" "$work/$file" | sha256sum --check --status || fail "$file is not the file that the manifest names"
echo "install.sh: $file of release $version is signed by a key that you trust"
[ -z "$check_only" ] || exit 0

# 4. Only now.
case $format in
  deb) dpkg --install "$work/$file" ;;
  rpm) rpm --upgrade --oldpackage "$work/$file" ;;
  tar.gz)
    mkdir "$work/tree"
    tar -xzf "$work/$file" -C "$work/tree" --strip-components=1
    # Settings that are there stay.
    [ ! -e /etc/nkudo-edge/config.yaml ] || rm "$work/tree/etc/nkudo-edge/config.yaml"
    cp -R --no-dereference --preserve=mode --remove-destination "$work/tree/." /
    if command -v systemctl >/dev/null; then
      systemd-sysusers nkudo-edge.conf
      systemd-tmpfiles --create nkudo-edge.conf
      [ ! -d /run/systemd/system ] || { systemctl daemon-reload && systemctl try-restart nkudo-edge.service; }
    fi
    ;;
esac
