"""Reads for the pages, each in a number of queries that doesn't grow with the rows."""
