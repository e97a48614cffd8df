"""What runs, tests and checks the project; none of it is part of what gets installed."""
