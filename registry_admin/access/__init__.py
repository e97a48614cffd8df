"""Logins and sessions: limits of failed logins, the end of sessions, and the clients' addresses."""
