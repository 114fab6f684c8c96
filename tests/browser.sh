#!/bin/sh
# Finds a Chromium for the browser tests, or installs Debian's where that is allowed; says what to do where it is not.
set -eu
for name in chromium chromium-browser google-chrome; do
  if command -v "$name" >/dev/null 2>&1; then exit 0; fi
done
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null && exit 0
fi
echo "No Chromium was found and none could be installed: the browser tests will be skipped." >&2
echo "Install one (Debian: sudo apt-get install chromium) and run 'make test' again." >&2
[ -z "${CI:-}" ]
