"""`python -m dozan` is the same as `dozan`."""

from dozan.cli import main

if __name__ == "__main__":
    main()
