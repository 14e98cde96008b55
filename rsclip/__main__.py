"""`python -m rsclip`, which is what torchrun starts."""

from rsclip.cli import main

main(prog_name="rsclip")
