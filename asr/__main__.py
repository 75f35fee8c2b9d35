"""``python -m asr``: the command line, as torchrun starts it."""

from asr.cli import main

if __name__ == "__main__":
    main(prog_name="asr")
