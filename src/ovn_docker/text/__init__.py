"""Text for people: command lines, output and questions on terminals, foreign names made fit to print."""
