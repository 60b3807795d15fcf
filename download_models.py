#!/usr/bin/env python3
"""Fetch the Real-ESRGAN weights and export them: the same as `python -m exporters realesrgan`, with its options."""

import sys

from exporters.cli import run

if __name__ == "__main__":
    run(["realesrgan", *sys.argv[1:]])
