"""`python -m mnemonics_jax.cli` is the `mnemonics` command."""

from mnemonics_jax.cli import main

main()
