"""``python -m kerastrain``: the command line of `kerastrain.cli`."""

from kerastrain.cli import main

if __name__ == "__main__":
    main()
