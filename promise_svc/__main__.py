"""`python -m promise_svc`: the commands are in `cli/`."""

from promise_svc.cli import main

if __name__ == "__main__":
    main()
