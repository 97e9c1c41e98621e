"""What an operator does, or has a job do: looks by hand, and dead letters."""
