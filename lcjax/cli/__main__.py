"""`python -m lcjax.cli`."""

from lcjax.cli.command import main

if __name__ == "__main__":
    main()
