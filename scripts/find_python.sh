#!/bin/sh
# Prints the first Python on the PATH that TensorFlow 2.15 supports (3.9 to 3.11), or nothing.
for name in python3.11 python3.10 python3.9 python3 python; do
  if "$name" -c 'import sys, venv, ensurepip; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 11))' \
      >/dev/null 2>&1; then
    command -v "$name"
    exit 0
  fi
done
