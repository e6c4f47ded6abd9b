"""Where and how code runs: devices, processes, random streams, files, progress, errors."""
