"""How tensor functions run: precision, compilation, several processes, interrupts."""
