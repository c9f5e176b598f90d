"""Devices, random seeds, precision, compilation, several processes, and Ctrl-C."""
