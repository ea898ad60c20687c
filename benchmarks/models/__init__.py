"""Model folders, and the engines that write completions. Imports `endpoint`."""
