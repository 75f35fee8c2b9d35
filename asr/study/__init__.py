"""What recurrence does and what it buys: the gates of a trained network, and cells against one another."""
