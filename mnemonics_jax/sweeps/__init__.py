"""Many runs: comparisons, sweeps, several seeds in one program, and Ray."""
