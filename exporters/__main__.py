"""`python -m exporters`."""

from exporters.cli import run

run()
