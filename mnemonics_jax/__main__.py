"""`python -m mnemonics_jax` is the `mnemonics` command."""

from mnemonics_jax.cli import main

main()
