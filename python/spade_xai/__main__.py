"""The command line of the package: `python -m spade_xai` is `spade-xai`."""

from spade_xai.cli import main

if __name__ == "__main__":
    main()
