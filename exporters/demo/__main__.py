"""`python -m exporters.demo`."""

from exporters.demo.cli import main

main(prog_name="python -m exporters.demo")
