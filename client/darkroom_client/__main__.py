"""`python -m darkroom_client` is the command `darkroom`."""

from .cli import main

main(prog_name="darkroom")
