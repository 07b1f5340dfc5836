"""`python -m winning_tickets` is the command `tickets`."""

from winning_tickets.cli import main

if __name__ == "__main__":
    main()
