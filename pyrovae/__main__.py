"""`python -m pyrovae`, and `torchrun -m pyrovae`."""

from pyrovae.cli import main

if __name__ == "__main__":
    main()
