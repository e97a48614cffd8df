"""Commands that run, test and check the project. None of them is installed with it."""
